"""Against PEFT: its delta-level merges of adapters that it made itself, at full rank, so that nothing is cut off."""

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from peft.utils import merge_utils

from polyad.adapters_store.delta import Delta, dense
from polyad.adapters_store.merge import Compress, Execution, Input, Recipe, Tensors, method_of
from polyad.adapters_store.merge.counter_random import stream, uniform
from polyad.adapters_store.merge.task import written
from tests.fixtures.tiny import PREFIX, Tiny

WEIGHTS = [0.7, 0.4, 1.1]
RANKS = (2, 4, 3)
Trained = tuple[PeftModel, dict[str, Delta]]


@pytest.fixture(scope="module", params=[False, True], ids=["lora", "rslora"])
def trained(request: pytest.FixtureRequest, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Three adapters of different ranks and scales, in PEFT and as deltas."""
    folder = tmp_path_factory.mktemp("adapters")
    deltas: dict[str, Delta] = {}
    model: PeftModel | None = None
    for seed, (name, rank) in enumerate(zip("abc", RANKS, strict=True)):
        torch.manual_seed(seed)
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=rank,
            lora_alpha=rank + 1,
            target_modules=["q_proj", "down_proj"],
            use_rslora=request.param,
        )
        adapter = tiny.trained(config, folder / name)
        deltas[name] = adapter.delta()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if model is None:
                model = PeftModel.from_pretrained(copy.deepcopy(tiny.model), folder / name, adapter_name=name)
            else:
                model.load_adapter(folder / name, adapter_name=name)
    assert model is not None
    return model, deltas


def merged_by_peft(model: PeftModel, kind: str, **options: Any) -> dict[str, torch.Tensor]:
    """dW of PEFT's merge, at full rank; its scaling is 1 unless it is inherited wrongly, so it is taken out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.add_weighted_adapter(list("abc"), WEIGHTS, "merged", combination_type=kind, svd_rank=16, **options)
    found = {
        name.removeprefix(PREFIX): module.lora_B["merged"].weight @ module.lora_A["merged"].weight
        for name, module in model.named_modules()
        if hasattr(module, "lora_A") and "merged" in module.lora_A
    }
    model.delete_adapter("merged")
    return {name: matrix.detach() for name, matrix in found.items()}


def merged_by_us(deltas: dict[str, Delta], method: str, **parameters: Any) -> dict[str, torch.Tensor]:
    inputs = tuple(Input(((name, 1.0),), weight) for name, weight in zip("abc", WEIGHTS, strict=True))
    variant = "peft" if "peft" in method_of(method).variants else None
    recipe = Recipe(
        method=method,
        variant=variant,
        inputs=inputs,
        parameters=tuple(parameters.items()),
        compress=Compress(rank=16),
    )
    result = Execution(recipe=recipe, deltas=deltas).run().delta
    return {module: matrix for module, change in result.modules.items() if (matrix := dense(change)[0]) is not None}


@pytest.mark.parametrize(
    ("kind", "method", "theirs", "ours"),
    [
        ("svd", "linear", {}, {}),
        ("cat", "linear", {}, {}),
        ("ties_svd", "ties", {"density": 0.3}, {"density": 0.3}),
        (
            "ties_svd",
            "ties",
            {"density": 0.5, "majority_sign_method": "frequency"},
            {"density": 0.5, "sign": "frequency"},
        ),
        ("magnitude_prune_svd", "magnitude_prune", {"density": 0.3}, {"density": 0.3}),
    ],
)
def test_it_is_what_peft_makes(
    kind: str, method: str, theirs: dict[str, Any], ours: dict[str, Any], trained: Trained
) -> None:
    model, deltas = trained
    expected = merged_by_peft(model, kind, **theirs)
    found = merged_by_us(deltas, method, **ours)
    assert expected.keys() == found.keys()
    for module, matrix in expected.items():
        torch.testing.assert_close(found[module], matrix, rtol=1e-5, atol=1e-5 * float(matrix.abs().max()))


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_random_methods_agree_on_the_same_random_numbers(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    tasks = [torch.randn(20, 30, generator=generator) for _ in range(3)]
    draws = iter(uniform(stream(7, "x", place), 0, 600).view(20, 30) for place in range(3))
    monkeypatch.setattr(torch, "bernoulli", lambda chances: (next(draws) < chances).to(chances.dtype))
    expected = getattr(merge_utils, method)([task.clone() for task in tasks], torch.tensor(WEIGHTS), 0.4)
    ours = method_of(method)
    values = ours.defaults() | {"variant": "peft", "density": 0.4}
    if method == "dare_ties":
        # PEFT always divides by the count
        values["normalize"] = True
    assert ours.combine is not None
    found = ours.combine(Tensors("x", tasks, WEIGHTS, values, [{}] * 3, seed=7))
    torch.testing.assert_close(written(found), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("trained", [True], ids=["rslora"], indirect=True)
def test_a_merge_of_rslora_adapters_is_not_scaled_up(trained: Trained, tiny: Tiny, tmp_path: Path) -> None:
    """What PEFT serves after `cat` is the sum times the root of the new rank; ours is the sum."""
    model, deltas = trained
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.add_weighted_adapter(list("abc"), WEIGHTS, "merged", combination_type="cat")
    expected = merged_by_us(deltas, "linear")
    for module, matrix in expected.items():
        theirs = model.get_submodule(PREFIX + module).get_delta_weight("merged")
        torch.testing.assert_close(theirs, matrix * sum(RANKS) ** 0.5, rtol=1e-4, atol=1e-4)
    model.delete_adapter("merged")


def test_pefts_linear_is_no_weighted_sum(tiny: Tiny, tmp_path: Path) -> None:
    """It adds A's and B's apart from each other; polyad has no such method."""
    names = ("one", "two")
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        tiny.trained(LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"]), tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(copy.deepcopy(tiny.model), tmp_path / "one", adapter_name="one")
        model.load_adapter(tmp_path / "two", adapter_name="two")
        model.add_weighted_adapter(list(names), [0.5, 0.5], "merged", combination_type="linear")
    module = next(module for name, module in model.named_modules() if name.endswith("q_proj"))
    theirs, one, two = (module.get_delta_weight(name) for name in ("merged", *names))
    whole = (one + two) / 2
    assert float((theirs - whole).norm() / whole.norm()) > 0.1
