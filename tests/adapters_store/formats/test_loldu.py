from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyad.adapters_store.errors import InvalidAdapter
from polyad.adapters_store.formats.loldu import loldu_term
from tests.fixtures.tiny import Adapter, Tiny

CONFIG = {"peft_type": "LOLDU", "r": 5, "lora_alpha": 3, "init_method": "lu"}
Q0, DOWN1, UP1 = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj", "model.layers.1.mlp.up_proj"
Z, S = (f"base_model.model.{Q0}.loldu_{part}" for part in "zs")


def parts_of(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """P, L, D and U, as the authors' code takes them apart."""
    p, lower, upper = torch.linalg.lu(weight)
    d = torch.diagonal(upper)
    return p, lower, d, upper / d[:, None]


def trained(weight: torch.Tensor, z: torch.Tensor, s: float, initial_scale: float) -> torch.Tensor:
    """The residual with the trained part, as the authors' code runs it."""
    p, lower, d, upper = parts_of(weight)
    rank = len(z)
    left, right = p @ lower[:, :rank], upper[:rank]
    residual = weight - initial_scale * left @ torch.diag(d[:rank]) @ right
    return residual + s * left @ torch.diag(z) @ right


@settings(max_examples=40, deadline=None)
@given(
    out_features=st.integers(1, 9), in_features=st.integers(1, 9), rank=st.integers(1, 9), seed=st.integers(0, 10**6)
)
def test_formula(out_features: int, in_features: int, rank: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out_features, in_features, generator=generator, dtype=torch.float64)
    z = torch.randn(min(rank, out_features, in_features), generator=generator, dtype=torch.float64)
    term = loldu_term("m", weight, z, 1.3, 0.4)
    expected = trained(weight, z, 1.3, 0.4)
    size = float(expected.abs().max() + (term.b.abs() @ term.a.abs()).max())
    torch.testing.assert_close(weight + term.scale * term.b @ term.a, expected, rtol=0, atol=1e-12 * size)


def test_untrained_it_changes_nothing() -> None:
    weight = torch.randn(6, 8, dtype=torch.float64)
    term = loldu_term("m", weight, parts_of(weight)[2][:4], 0.6, 0.6)
    assert float((term.b @ term.a).abs().max()) < 1e-14


@pytest.mark.parametrize(
    "weight",
    [torch.zeros(4, 4), torch.ones(4, 4), torch.diag(torch.tensor([1.0, 1e-12, 1.0])), torch.full((3, 3), torch.nan)],
    ids=["zero", "ones", "tiny pivot", "nan"],
)
def test_weights_that_have_no_such_decomposition(weight: torch.Tensor) -> None:
    with pytest.raises(InvalidAdapter, match="m: got 'an LDU decomposition with error .*nearly singular"):
        loldu_term("m", weight, torch.ones(2), 1.0, 1.0)


def written(tiny: Tiny, folder: Path) -> Adapter:
    generator = torch.Generator().manual_seed(9)
    tensors = {}
    for module in (Q0, DOWN1, UP1):
        tensors[f"{module}.loldu_z"] = parts_of(tiny.weight(module))[2][:5].float() * 1.1
        tensors[f"{module}.loldu_s"] = torch.rand(1, generator=generator) + 0.5
    return tiny.written(folder, CONFIG, tensors)


def test_from_the_files_it_is_what_the_authors_code_runs(tiny: Tiny, tmp_path: Path) -> None:
    adapter = written(tiny, tmp_path)
    delta = adapter.delta()
    assert (adapter.admit().kind, adapter.admit().rank) == ("loldu", 5)
    tensors = adapter.tensors()
    for module in (Q0, DOWN1, UP1):
        z, s = tensors[f"{module}.loldu_z"].double(), float(tensors[f"{module}.loldu_s"])
        weight = trained(tiny.weight(module), z, s, 3 / 5)
        x = torch.randn(3, weight.shape[1], dtype=torch.float64)
        torch.testing.assert_close(tiny.changed(module, delta)(x), x @ weight.t(), rtol=1e-5, atol=1e-5)


def test_conv1d_layers(gpt2: Tiny, tmp_path: Path) -> None:
    module = "transformer.h.0.attn.c_attn"
    tensors = {f"{module}.loldu_z": torch.ones(5), f"{module}.loldu_s": torch.ones(1)}
    delta = gpt2.written(tmp_path, CONFIG, tensors).delta()
    weight = trained(gpt2.weight(module), torch.ones(5).double(), 1.0, 3 / 5)
    x = torch.randn(3, 16, dtype=torch.float64)
    expected = x @ weight.t() + gpt2.bias(module)
    torch.testing.assert_close(gpt2.changed(module, delta)(x), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_method": "uniform"}, "init_method: got 'uniform', allowed: 'lu'"),
        ({"init_method": None}, "init_method: got None"),
        ({"r": 6}, r"shape: got \[5\], allowed: \[6\]"),
        ({"r": 17}, "r: got 17, allowed: at most 16, for"),
        ({"r": None}, "r: got None"),
        ({"lora_alpha": None}, "lora_alpha: got None"),
        ({"brand_new": 1}, "brand_new: got 1"),
    ],
)
def test_refused_config(tiny: Tiny, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    adapter = written(tiny, tmp_path)
    adapter.change_config(**changes)
    with pytest.raises(InvalidAdapter, match=message):
        adapter.admit()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(Z), f"no loldu_z for {Q0}"),
        (lambda tensors: tensors.pop(S), f"no loldu_s for {Q0}"),
        (lambda tensors: tensors.update({S: torch.ones(2)}), r"shape: got \[2\], allowed: \[1\]"),
        (lambda tensors: tensors[Z].fill_(float("nan")), "NaN"),
    ],
)
def test_refused_tensors(tiny: Tiny, tmp_path: Path, change: Any, message: str) -> None:
    adapter = written(tiny, tmp_path)
    adapter.change_tensors(change)
    with pytest.raises(InvalidAdapter, match=message):
        adapter.admit()
    assert adapter.left_behind() == []
