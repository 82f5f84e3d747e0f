"""Learned grafts, against autograd through the formula of the paper in float64."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch.func import functional_call
from transformers import AutoModelForCausalLM

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.delta import Delta, ModuleDelta, dense
from polyad.adapters_store.errors import InvalidInput, Unsupported
from polyad.serve.learn.graft import Graft, Learned
from polyad.serve.learn.train.tokens import Row
from tests.fixtures.tiny import Tiny

ROWS = [Row((1, 2, 3), answer, answer) for answer in ((4, 5), (6, 7, 8), (9,), (10, 4, 11))]


@pytest.fixture(scope="module")
def tiny(chat_folder: Path) -> Tiny:
    return Tiny(AutoModelForCausalLM.from_pretrained(chat_folder), BaseModel.from_folder(chat_folder, "c"), chat_folder)


@pytest.fixture(scope="module")
def delta(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Delta:
    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "down_proj"])
    adapter = tiny.trained(config, tmp_path_factory.mktemp("adapter"))
    adapter.change_tensors(lambda tensors: [tensor.mul_(0.3) for tensor in tensors.values()])
    return adapter.delta()


def run(tiny: Tiny, delta: Delta, **options: Any) -> Learned:
    model = AutoModelForCausalLM.from_pretrained(tiny.folder, dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = Graft(**options).run(model, tiny.base, delta, ROWS, 0, iter)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return found


def matrices(delta: Delta) -> dict[str, torch.Tensor]:
    found = {name: dense(change)[0] for name, change in delta.modules.items()}
    return {name: matrix.double() for name, matrix in found.items() if matrix is not None}


def loss(model: Any, changed: dict[str, torch.Tensor]) -> torch.Tensor:
    """Nats a token of the answers, row by row and so without padding."""
    total = torch.zeros((), dtype=torch.float64)
    for row in ROWS:
        logits = functional_call(model, changed, (torch.tensor([[*row.prompt, *row.answer]]),)).logits[0]
        said = logits[len(row.prompt) - 1 : -1].log_softmax(-1)
        total = total - said.gather(-1, torch.tensor(row.answer)[:, None]).sum()
    return total / sum(len(row.answer) for row in ROWS)


def gamma(begun: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    return begun + (1 - 2 * begun) * torch.sigmoid(score - 10)


def test_steps_are_those_of_autograd_through_the_formula(tiny: Tiny, delta: Delta) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(tiny.folder, dtype=torch.float64).requires_grad_(False)
    change, density, rate, epochs = matrices(delta), 0.2, 5e7, 3
    everything = torch.cat([one.abs().flatten() for one in change.values()])
    least = everything.topk(int(density * len(everything))).values[-1]
    begun = {name: (one.abs() >= least).double() for name, one in change.items()}
    scores = {name: torch.zeros_like(one, requires_grad=True) for name, one in change.items()}
    for _ in range(epochs):
        changed = {
            f"{name}.weight": model.get_submodule(name).weight + gamma(begun[name], scores[name]) * change[name]
            for name in change
        }
        gradients = torch.autograd.grad(loss(model, changed), list(scores.values()))
        with torch.no_grad():
            for score, gradient in zip(scores.values(), gradients, strict=True):
                score -= rate * gradient
    found = run(tiny, delta, density=density, rate=rate, epochs=epochs)
    moved = 0
    for name, mask in found.masks.items():
        expected = gamma(begun[name], scores[name].detach())
        certain = (expected - 0.5).abs() > 0.05
        assert torch.equal(mask[certain], (expected > 0.5)[certain])
        moved += int((mask != begun[name].bool()).sum())
    assert moved > 10, "the steps changed hardly anything: the comparison says nothing"


def test_losses_are_of_what_they_say(tiny: Tiny, delta: Delta) -> None:
    found = run(tiny, delta, density=0.2, rate=3e6)
    model: Any = AutoModelForCausalLM.from_pretrained(tiny.folder, dtype=torch.float64).requires_grad_(False)
    change = matrices(delta)

    def of(masks: dict[str, Any]) -> float:
        changed = {f"{name}.weight": model.get_submodule(name).weight + masks[name] * change[name] for name in change}
        return float(loss(model, changed))

    assert found.base == pytest.approx(of(dict.fromkeys(change, 0.0)), rel=1e-4)
    assert found.whole == pytest.approx(of(dict.fromkeys(change, 1.0)), rel=1e-4)
    assert found.learned == pytest.approx(of(found.masks), rel=1e-4)
    assert found.retained == pytest.approx((found.base - found.learned) / (found.base - found.whole), nan_ok=True)


def test_what_is_learned_is_better_than_the_largest(tiny: Tiny, delta: Delta) -> None:
    """Also where the whole change is worse than the base: elements that do harm are left out."""
    found = run(tiny, delta, density=0.2, rate=3e6, epochs=8)
    assert found.learned < found.magnitude and found.learned < found.whole


def test_what_it_cannot_do_is_refused(tiny: Tiny, delta: Delta) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(tiny.folder)
    with pytest.raises(InvalidInput, match="examples: got 0"):
        Graft().run(model, tiny.base, delta, [], 0, iter)
    name, change = next(iter(delta.modules.items()))
    biased = Delta({name: ModuleDelta(low_rank=change.low_rank, bias=torch.zeros(change.out_features or 0))})
    with pytest.raises(Unsupported, match="with a bias"):
        Graft().run(model, tiny.base, biased, ROWS, 0, iter)
