from pathlib import Path
from typing import Any

import pytest
import torch

from polyad.adapters_store.errors import InvalidAdapter
from polyad.adapters_store.formats.lofit import lofit_delta
from tests.fixtures.deltas import written_out
from tests.fixtures.tiny import Adapter, Tiny

# 4 query heads of 4 over 2 key heads: o_proj has 16 inputs
CONFIG = {"peft_type": "LOFIT", "output_modules": "o_proj", "num_heads": 4, "head_dim": 4}
O0, O2 = (f"model.layers.{layer}.self_attn.o_proj" for layer in (0, 2))
NAMED = f"base_model.model.{O0}"


@pytest.mark.parametrize("scaled", [True, False])
def test_formula(scaled: bool) -> None:
    heads, head_dim, out_features = 3, 2, 5
    w, b0 = torch.randn(out_features, heads * head_dim, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    h, v, a = (torch.randn(heads, head_dim, dtype=torch.float64) for _ in range(3))
    a = a * scaled
    expected = b0.clone()
    for head in range(heads):
        expected += w[:, head * head_dim : (head + 1) * head_dim] @ ((1 + a[head]) * h[head] + v[head])
    blocks = [(slice(0, 2), w[:2]), (slice(2, 5), w[2:])]
    matrix, bias = written_out(lofit_delta(blocks, out_features, v, a if scaled else None), w)
    torch.testing.assert_close((w + matrix) @ h.flatten() + b0 + bias, expected, rtol=1e-12, atol=1e-12)


def written(tiny: Tiny, folder: Path) -> Adapter:
    generator = torch.Generator().manual_seed(6)
    tensors = {f"{O0}.lofit_v": torch.randn(4, 4, generator=generator)}
    tensors |= {f"{O2}.lofit_{part}": torch.randn(4, 4, generator=generator) for part in "va"}
    return tiny.written(folder, CONFIG, tensors)


@pytest.mark.parametrize("base", ["tiny", "biased"])
def test_heads_are_moved_before_the_output_projection(
    request: pytest.FixtureRequest, tmp_path: Path, base: str
) -> None:
    tiny: Tiny = request.getfixturevalue(base)
    adapter = written(tiny, tmp_path)
    delta = adapter.delta()
    assert (adapter.admit().kind, adapter.admit().targets) == ("lofit", ("o_proj",))
    tensors = adapter.tensors()
    for module in (O0, O2):
        h = torch.randn(3, 4, 4, dtype=torch.float64)
        scale = tensors.get(f"{module}.lofit_a", torch.zeros(4, 4)).double()
        moved = (1 + scale) * h + tensors[f"{module}.lofit_v"].double()
        expected = moved.flatten(1) @ tiny.weight(module).t() + tiny.bias(module)
        torch.testing.assert_close(tiny.changed(module, delta)(h.flatten(1)), expected, rtol=1e-6, atol=1e-6)
    assert delta.modules[O0].column_scale is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 2}, "num_heads: got '2 heads of 4', allowed: the 16 inputs of"),
        ({"num_heads": 8, "head_dim": 2}, r"shape: got \[4, 4\], allowed: \[8, 2\]"),
        ({"num_heads": None}, "num_heads: got None"),
        ({"head_dim": 0}, "head_dim: got 0"),
        ({"output_modules": None}, "output_modules: got None"),
        ({"output_modules": "proj"}, "modules by the name of proj"),
        ({"output_modules": ["o_proj"]}, "output_modules: got"),
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
        (lambda tensors: tensors.pop(f"base_model.model.{O2}.lofit_v"), f"no lofit_v for {O2}"),
        (lambda tensors: tensors.update({f"{NAMED}.lofit_v": torch.ones(16)}), r"shape: got \[16\], allowed: \[4, 4\]"),
        (lambda tensors: tensors[f"{NAMED}.lofit_v"].fill_(float("nan")), "NaN"),
        (
            lambda tensors: tensors.update({"base_model.model.model.layers.0.mlp.up_proj.lofit_v": torch.ones(4, 4)}),
            "modules by the name of o_proj",
        ),
        (lambda tensors: tensors.update({"base_model.model.model.norm.lofit_v": torch.ones(4, 4)}), "linear layers"),
    ],
)
def test_refused_tensors(tiny: Tiny, tmp_path: Path, change: Any, message: str) -> None:
    adapter = written(tiny, tmp_path)
    adapter.change_tensors(change)
    with pytest.raises(InvalidAdapter, match=message):
        adapter.admit()
    assert adapter.left_behind() == []
