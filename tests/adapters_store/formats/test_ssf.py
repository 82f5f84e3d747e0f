from pathlib import Path
from typing import Any

import pytest
import torch

from polyad.adapters_store.errors import InvalidAdapter
from polyad.adapters_store.formats.ssf import ssf_delta
from tests.fixtures.deltas import written_out
from tests.fixtures.tiny import Adapter, Tiny

Q0 = "model.layers.0.self_attn.q_proj"
DOWN1 = "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize("has_bias", [True, False])
def test_formula(has_bias: bool) -> None:
    w, b0, scale, shift, x = (torch.randn(size, dtype=torch.float64) for size in ((7, 5), (7,), (7,), (7,), (5,)))
    b0 = b0 * has_bias
    matrix, bias = written_out(ssf_delta(scale, shift, b0 if has_bias else None), w)
    expected = scale * (w @ x + b0) + shift
    torch.testing.assert_close((w + matrix) @ x + b0 + bias, expected, rtol=1e-12, atol=1e-12)


def written(tiny: Tiny, folder: Path) -> Adapter:
    generator = torch.Generator().manual_seed(2)
    tensors = {
        f"{module}.{part}": torch.randn(tiny.base.linears[module][0], generator=generator) + 1
        for module in (Q0, DOWN1)
        for part in ("ssf_scale", "ssf_shift")
    }
    return tiny.written(folder, {"peft_type": "SSF"}, tensors)


@pytest.mark.parametrize("base", ["tiny", "biased"])
def test_outputs_are_scaled_and_shifted(request: pytest.FixtureRequest, tmp_path: Path, base: str) -> None:
    tiny: Tiny = request.getfixturevalue(base)
    adapter = written(tiny, tmp_path)
    delta = adapter.delta()
    admitted = adapter.admit()
    assert (admitted.kind, admitted.rank, admitted.targets) == ("ssf", 0, ("down_proj", "q_proj"))
    tensors = adapter.tensors()
    for module in (Q0, DOWN1):
        x = torch.randn(3, tiny.base.linears[module][1], dtype=torch.float64)
        plain = x @ tiny.weight(module).t() + tiny.bias(module)
        expected = tensors[f"{module}.ssf_scale"].double() * plain + tensors[f"{module}.ssf_shift"].double()
        torch.testing.assert_close(tiny.changed(module, delta)(x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(f"base_model.model.{Q0}.ssf_shift"), f"no ssf_shift for {Q0}"),
        (lambda tensors: tensors.update({f"base_model.model.{Q0}.ssf_scale": torch.ones(15)}), r"shape: got \[15\]"),
        (lambda tensors: tensors[f"base_model.model.{Q0}.ssf_scale"].fill_(float("nan")), "NaN"),
        (lambda tensors: tensors.clear(), "no tensors"),
        (lambda tensors: tensors.update({f"base_model.model.{Q0}.weight": torch.ones(1)}), "ssf_scale or .ssf_shift"),
        (
            lambda tensors: tensors.update({"base_model.model.model.norm.ssf_scale": torch.ones(16)}),
            r"model.norm.ssf_scale', allowed: linear layers.*a norm's scale and shift",
        ),
        (lambda tensors: tensors.update({"base_model.model.lm_head.ssf_scale": torch.ones(48)}), "output head"),
        (lambda tensors: tensors.update({f"{Q0}.ssf_scale": torch.ones(16)}), "base_model.model.<module>"),
    ],
)
def test_refused_tensors(tiny: Tiny, tmp_path: Path, change: Any, message: str) -> None:
    adapter = written(tiny, tmp_path)
    adapter.change_tensors(change)
    with pytest.raises(InvalidAdapter, match=message):
        adapter.admit()
    assert adapter.left_behind() == []
