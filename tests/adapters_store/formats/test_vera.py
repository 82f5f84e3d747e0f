from pathlib import Path
from typing import Any

import pytest
import torch
from peft import VeraConfig

from polyad.adapters_store.admission import Limits
from polyad.adapters_store.delta import ModuleDelta, dense
from polyad.adapters_store.errors import InvalidAdapter, TooLarge
from polyad.adapters_store.formats.vera import VERA_KEYS, vera_term
from tests.fixtures.tiny import Adapter, Tiny

TARGETS = ["q_proj", "k_proj", "up_proj", "down_proj"]
Q0 = "base_model.model.model.layers.0.self_attn.q_proj"
A = "base_model.vera_A"


def config(**changes: Any) -> VeraConfig:
    return VeraConfig(r=5, **{"target_modules": TARGETS, **changes})


def test_formula() -> None:
    a, b, d, e = (torch.randn(size, dtype=torch.float64) for size in ((3, 5), (7, 3), (3,), (7,)))
    change, _ = dense(ModuleDelta(low_rank=vera_term(a, b, d, e)), dtype=torch.float64)
    assert change is not None
    torch.testing.assert_close(change, torch.diag(e) @ b @ torch.diag(d) @ a, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("changes", [{}, {"bias": "all"}, {"bias": "vera_only"}, {"layers_to_transform": [1]}], ids=str)
def test_as_in_peft(biased: Tiny, tmp_path: Path, changes: dict[str, Any]) -> None:
    adapter = biased.trained(config(**changes), tmp_path)
    delta = biased.assert_as_in_peft(adapter)
    assert (adapter.admit().kind, adapter.admit().rank) == ("vera", 5)
    for change in delta.modules.values():
        assert change.low_rank is None or change.low_rank.a.shape[0] == 5


def test_conv1d_layers(gpt2: Tiny, tmp_path: Path) -> None:
    gpt2.assert_as_in_peft(gpt2.trained(config(target_modules=["c_attn", "c_fc"], fan_in_fan_out=True), tmp_path))


@pytest.fixture
def adapter(tiny: Tiny, tmp_path: Path) -> Adapter:
    return tiny.trained(config(), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"save_projection": False}, "save_projection: got False, allowed: true: without the projection"),
        ({"save_projection": 1}, "save_projection: got 1"),
        ({"r": 6}, r"vera_A: shape: got \[5, 24\], allowed: \[6, 24\]"),
        ({"r": "5"}, "r: got '5'"),
        ({"bias": "lora_only"}, "'none' or 'all' or 'vera_only'"),
        ({"modules_to_save": ["lm_head"]}, "modules trained in full"),
        ({"brand_new": 1}, "brand_new: got 1"),
        ({"target_modules": ["q_proj"]}, "is not one of them"),
    ],
)
def test_refused_config(adapter: Adapter, changes: dict[str, Any], message: str) -> None:
    adapter.change_config(**changes)
    with pytest.raises(InvalidAdapter, match=message):
        adapter.admit()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(A), "no base_model.vera_A.*the projection with the vectors"),
        (lambda tensors: tensors.pop(f"{Q0}.vera_lambda_d"), "no vera_lambda_d for model.layers.0.self_attn.q_proj"),
        (lambda tensors: tensors.update({A: torch.ones(5, 16)}), r"vera_A: shape: got \[5, 16\], allowed: \[5, 24\]"),
        (lambda tensors: tensors.update({f"{Q0}.vera_lambda_b": torch.ones(5)}), r"shape: got \[5\], allowed: \[16\]"),
        (lambda tensors: tensors[A].fill_(float("inf")), "vera_A: got 'NaN or infinity'"),
        (lambda tensors: tensors[f"{Q0}.vera_lambda_b"].fill_(float("nan")), "NaN"),
    ],
)
def test_refused_tensors(adapter: Adapter, change: Any, message: str) -> None:
    adapter.change_tensors(change)
    with pytest.raises(InvalidAdapter, match=message):
        adapter.admit()
    assert adapter.left_behind() == []


def test_what_it_grows_to_is_limited(adapter: Adapter) -> None:
    """A file of two vectors a module becomes a delta of two matrices a module."""
    admitted = adapter.admit()
    adapter.limits = Limits(max_rank=16, max_bytes=adapter.weights.stat().st_size, max_delta_bytes=admitted.size // 2)
    with pytest.raises(TooLarge, match="converted adapter: got"):
        adapter.admit()


def test_every_key_that_peft_writes_has_a_rule() -> None:
    assert config().to_dict().keys() - VERA_KEYS.known == set()
