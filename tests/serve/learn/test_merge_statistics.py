"""Fisher information and Gram matrices, against autograd through the model that PEFT makes of the same adapter."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.merge.statistics import StatisticsFile, write_statistics
from polyad.serve.learn.merge_statistics import Survey, read_rows, tuned_model
from polyad.serve.learn.train.tokens import Row
from tests.fixtures.tiny import Adapter, Tiny

LINES: tuple[dict[str, Any], ...] = (
    {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "A cat."}]},
    {"prompt": [{"role": "user", "content": "Where was it?"}], "answer": "On the mat."},
    {"prompt": "And then", "answer": " it slept."},
)


@pytest.fixture(scope="module")
def tiny(chat_folder: Path) -> Tiny:
    return Tiny(AutoModelForCausalLM.from_pretrained(chat_folder), BaseModel.from_folder(chat_folder, "c"), chat_folder)


@pytest.fixture(scope="module")
def adapter(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "down_proj"])
    adapter = tiny.trained(config, tmp_path_factory.mktemp("adapter"))
    # random values of 0.7 would saturate the softmax: its gradients would all be zero
    adapter.change_tensors(lambda tensors: [tensor.mul_(0.1) for tensor in tensors.values()])
    return adapter


@pytest.fixture(scope="module")
def in_peft(tiny: Tiny, adapter: Adapter) -> Any:
    """With the adapter merged into its weights by PEFT, in float64."""
    model = AutoModelForCausalLM.from_pretrained(tiny.folder, dtype=torch.float64)
    merged: Any = PeftModel.from_pretrained(model, adapter.folder).merge_and_unload()
    for module in adapter.delta().modules:
        # a bias of zero: for autograd there is one now
        layer = merged.get_submodule(module)
        layer.bias = torch.nn.Parameter(torch.zeros(layer.out_features, dtype=torch.float64))
    return merged.requires_grad_()


@pytest.fixture
def rows(tiny: Tiny, tmp_path: Path) -> list[Row]:
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps(line) for line in LINES) + "\n\n")
    return read_rows(tmp_path / "data.jsonl", tiny.folder, 16, 64)[0]


def answer_logits(model: Any, row: Row) -> torch.Tensor:
    """[tokens of the answer, vocabulary], of what stands before each."""
    logits: torch.Tensor = model(torch.tensor([[*row.prompt, *row.answer]])).logits[0]
    return logits[len(row.prompt) - 1 : -1].log_softmax(-1)


def squared_gradients(model: Any, modules: list[str], likelihood: torch.Tensor) -> dict[str, torch.Tensor]:
    layers = {module: model.get_submodule(module) for module in modules}
    named = {module: layer.weight for module, layer in layers.items()}
    named |= {f"{module}.bias": layer.bias for module, layer in layers.items() if layer.bias is not None}
    gradients = torch.autograd.grad(likelihood, list(named.values()), retain_graph=True)
    return {name: gradient.square() for name, gradient in zip(named, gradients, strict=True)}


def survey(tiny: Tiny, adapter: Adapter, rows: list[Row], **options: Any) -> dict[str, torch.Tensor]:
    delta = adapter.delta()
    return (
        Survey(modules=sorted(delta.modules), **options)
        .run(tuned_model(tiny.folder, tiny.base, delta), rows, padding=0)
        .tensors()
    )


def test_the_tuned_model_is_that_of_peft(tiny: Tiny, adapter: Adapter, in_peft: Any, rows: list[Row]) -> None:
    model = tuned_model(tiny.folder, tiny.base, adapter.delta())
    for row in rows:
        torch.testing.assert_close(
            answer_logits(model, row).double(), answer_logits(in_peft, row), rtol=1e-4, atol=1e-4
        )


def test_empirical_fisher_is_the_mean_of_squared_gradients_by_example(
    tiny: Tiny, adapter: Adapter, in_peft: Any, rows: list[Row]
) -> None:
    found = survey(tiny, adapter, rows, kind="fisher", sampled=False)
    modules = sorted(adapter.delta().modules)
    expected: dict[str, torch.Tensor] = {}
    for row in rows:
        of_answer = answer_logits(in_peft, row).gather(-1, torch.tensor(row.answer)[:, None]).sum()
        for name, square in squared_gradients(in_peft, modules, of_answer).items():
            expected[name] = expected.get(name, torch.zeros(())) + square / len(rows)
    assert found.keys() == expected.keys() and any(name.endswith(".bias") for name in found)
    for name, tensor in expected.items():
        assert tensor.max() > 0
        # kept in bfloat16
        torch.testing.assert_close(found[name].double(), tensor, rtol=1e-2, atol=float(tensor.max()) * 1e-5)


def test_sampled_fisher_has_the_exact_one_as_its_mean(
    tiny: Tiny, adapter: Adapter, in_peft: Any, rows: list[Row]
) -> None:
    """For an answer of one token, Fisher information is a sum over the whole vocabulary."""
    row = Row(rows[0].prompt, rows[0].answer[:1], rows[0].answer[:1])
    module = sorted(adapter.delta().modules)[0]
    (log_probs,) = answer_logits(in_peft, row)
    expected = torch.zeros_like(in_peft.get_submodule(module).weight)
    for log_prob in log_probs:
        expected += log_prob.detach().exp() * squared_gradients(in_peft, [module], log_prob)[module]
    found = survey(tiny, adapter, [row] * 1500, kind="fisher", sampled=True)[module].double()
    assert float(found.sum() / expected.sum()) == pytest.approx(1, abs=0.1)
    assert float(torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1]) > 0.95


def test_the_same_seed_draws_the_same(tiny: Tiny, adapter: Adapter, rows: list[Row]) -> None:
    one, same, other = (survey(tiny, adapter, rows, kind="fisher", seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert not all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_gram_matrices_are_those_of_the_layers_inputs(
    tiny: Tiny, adapter: Adapter, in_peft: Any, rows: list[Row]
) -> None:
    found = survey(tiny, adapter, rows, kind="gram")
    for module, gram in found.items():
        inputs: list[torch.Tensor] = []
        handle = in_peft.get_submodule(module).register_forward_pre_hook(
            lambda layer, given, into=inputs: into.append(given[0][0].detach())
        )
        with torch.no_grad():
            for row in rows:
                in_peft(torch.tensor([[*row.prompt, *row.answer]]))
        handle.remove()
        x = torch.cat(inputs)
        torch.testing.assert_close(gram.double(), x.t() @ x / len(x), rtol=1e-4, atol=1e-5)


def test_a_file_of_another_kind_is_refused(tiny: Tiny, adapter: Adapter, rows: list[Row], tmp_path: Path) -> None:
    delta = adapter.delta()
    means = Survey(kind="gram", modules=sorted(delta.modules)).run(tuned_model(tiny.folder, tiny.base, delta), rows, 0)
    write_statistics("gram", means.tensors(), tmp_path / "gram.safetensors", {"examples": "3"})
    read = StatisticsFile(tmp_path / "gram.safetensors", "gram")
    assert sorted(read) == sorted(delta.modules) and len(read) == len(delta.modules)
    for name, tensor in means.tensors().items():
        assert torch.equal(read[name], tensor)
    with pytest.raises(InvalidInput, match="gram.*fisher statistics"):
        StatisticsFile(tmp_path / "gram.safetensors", "fisher")


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"prompt": "x"}',
        '{"prompt": "x", "answer": 3}',
        '{"messages": []}',
        '{"messages": [{"role": "user", "content": "x"}]}',
        '{"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": "y"}]}',
        '{"messages": [{"role": "user"}]}',
    ],
)
def test_a_line_that_is_no_example_is_named(tiny: Tiny, tmp_path: Path, line: str) -> None:
    (tmp_path / "data.jsonl").write_text(json.dumps(LINES[0]) + "\n" + line + "\n")
    with pytest.raises(InvalidInput, match=r"data\.jsonl, line 2"):
        read_rows(tmp_path / "data.jsonl", tiny.folder, 16, 64)
