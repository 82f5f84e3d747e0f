from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config

from polyad.adapters_store.errors import InvalidAdapter, InvalidInput
from polyad.adapters_store.formats.ia3 import IA3_KEYS, ia3_delta
from tests.fixtures.deltas import written_out
from tests.fixtures.tiny import Adapter, Tiny

K0 = "base_model.model.model.layers.0.self_attn.k_proj.ia3_l"
DOWN0 = "base_model.model.model.layers.0.mlp.down_proj.ia3_l"


def config(**changes: Any) -> IA3Config:
    return IA3Config(
        **{"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"], **changes}
    )


@pytest.mark.parametrize("feedforward", [True, False])
@pytest.mark.parametrize("has_bias", [True, False])
def test_formula(feedforward: bool, has_bias: bool) -> None:
    w, b0, x = (torch.randn(size, dtype=torch.float64) for size in ((7, 5), (7,), (5,)))
    b0 = b0 * has_bias
    factor = torch.randn(5 if feedforward else 7, dtype=torch.float64)
    expected = w @ (factor * x) + b0 if feedforward else factor * (w @ x + b0)
    matrix, bias = written_out(ia3_delta(factor, feedforward, b0 if has_bias else None), w)
    torch.testing.assert_close((w + matrix) @ x + b0 + bias, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"feedforward_modules": []},
        {"feedforward_modules": ["proj"], "target_modules": ["k_proj", "down_proj", "proj"]},
        {"feedforward_modules": r".*mlp.*", "target_modules": "all-linear"},
        {"feedforward_modules": r".*\.(0|1)\..*(down|v)_proj", "target_modules": r".*(v|o|down)_proj"},
        {"exclude_modules": ["layers.1.mlp.down_proj"]},
    ],
    ids=str,
)
@pytest.mark.parametrize("base", ["tiny", "biased"])
def test_as_in_peft(request: pytest.FixtureRequest, tmp_path: Path, base: str, changes: dict[str, Any]) -> None:
    tiny: Tiny = request.getfixturevalue(base)
    adapter = tiny.trained(config(**changes), tmp_path)
    delta = tiny.assert_as_in_peft(adapter)
    admitted = adapter.admit()
    assert (admitted.kind, admitted.rank) == ("ia3", 0)
    for change in delta.modules.values():
        assert (change.row_scale is None) != (change.column_scale is None)
        assert (change.bias is not None) == (change.row_scale is not None and base == "biased")


def test_conv1d_layers(gpt2: Tiny, tmp_path: Path) -> None:
    ia3 = config(target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"], fan_in_fan_out=True)
    gpt2.assert_as_in_peft(gpt2.trained(ia3, tmp_path))


@pytest.fixture
def adapter(tiny: Tiny, tmp_path: Path) -> Adapter:
    return tiny.trained(config(), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feedforward_modules": None}, "feedforward_modules: got None"),
        ({"feedforward_modules": []}, r"shape: got \[1, 24\], allowed: \[16, 1\] \(the outputs of"),
        ({"feedforward_modules": ["proj"]}, r"allowed: \[1, (16|24)\] \(the inputs of"),
        ({"feedforward_modules": "("}, r"feedforward_modules: got '\('"),
        ({"target_modules": ["k_proj"]}, "is not one of them"),
        (
            {"target_modules": ["k_proj", "v_proj", "q_proj", "down_proj"]},
            "no ia3_l for model.layers.0.self_attn.q_proj",
        ),
        ({"modules_to_save": ["lm_head"]}, "modules trained in full"),
        ({"layers_to_transform": [0]}, "layers_to_transform"),
        ({"brand_new": 1}, "brand_new: got 1"),
    ],
)
def test_refused_config(adapter: Adapter, changes: dict[str, Any], message: str) -> None:
    adapter.change_config(**changes)
    with pytest.raises(InvalidAdapter, match=message):
        adapter.admit()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(K0), "no ia3_l for model.layers.0.self_attn.k_proj"),
        (lambda tensors: tensors.update({K0: torch.ones(8)}), r"shape: got \[8\], allowed: \[8, 1\]"),
        (lambda tensors: tensors.update({K0: torch.ones(1, 8)}), r"shape: got \[1, 8\], allowed: \[8, 1\]"),
        (lambda tensors: tensors.update({DOWN0: torch.ones(24, 1)}), r"shape: got \[24, 1\], allowed: \[1, 24\]"),
        (lambda tensors: tensors[DOWN0].fill_(float("nan")), "NaN"),
        (lambda tensors: tensors.update({f"{K0}.more": torch.ones(8)}), "<module>.ia3_l"),
    ],
)
def test_refused_tensors(adapter: Adapter, change: Any, message: str) -> None:
    adapter.change_tensors(change)
    with pytest.raises(InvalidAdapter, match=message):
        adapter.admit()
    assert adapter.left_behind() == []


def test_a_missing_base_bias_is_named(biased: Tiny, tmp_path: Path) -> None:
    adapter = biased.trained(config(), tmp_path)
    adapter.base = Tiny.saved(biased.model, tmp_path / "base").base
    (tmp_path / "base" / "model.safetensors").unlink()
    with pytest.raises(InvalidInput, match="model: got 'base'"):
        adapter.admit()


def test_every_key_that_peft_writes_has_a_rule() -> None:
    assert config().to_dict().keys() - IA3_KEYS.known == set()
