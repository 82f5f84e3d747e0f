from pathlib import Path
from typing import Any

import pytest
import torch

from polyad.adapters_store.errors import InvalidAdapter
from tests.fixtures.tiny import Adapter, Tiny

Q0 = "model.layers.0.self_attn.q_proj"
DOWN1 = "model.layers.1.mlp.down_proj"
NAMED = f"base_model.model.{Q0}.bias"


def written(tiny: Tiny, folder: Path) -> Adapter:
    tensors = {f"{module}.bias": torch.randn(16, generator=torch.Generator().manual_seed(2)) for module in (Q0, DOWN1)}
    return tiny.written(folder, {"peft_type": "BITFIT", "task_type": "CAUSAL_LM"}, tensors)


@pytest.mark.parametrize("base", ["tiny", "biased"])
def test_stored_biases_take_the_place_of_the_base_model_s(
    request: pytest.FixtureRequest, tmp_path: Path, base: str
) -> None:
    tiny: Tiny = request.getfixturevalue(base)
    adapter = written(tiny, tmp_path)
    delta = adapter.delta()
    assert adapter.admit().kind == "bitfit"
    assert delta.modules.keys() == {Q0, DOWN1}
    for module in (Q0, DOWN1):
        x = torch.randn(3, tiny.base.linears[module][1], dtype=torch.float64)
        expected = x @ tiny.weight(module).t() + adapter.tensors()[f"{module}.bias"].double()
        torch.testing.assert_close(tiny.changed(module, delta)(x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.update({NAMED: torch.ones(15)}), r"shape: got \[15\], allowed: \[16\]"),
        (lambda tensors: tensors[NAMED].fill_(float("inf")), "infinity"),
        (lambda tensors: tensors.clear(), "no tensors"),
        (lambda tensors: tensors.update({"base_model.model.model.norm.bias": torch.ones(16)}), "biases of norms"),
        (lambda tensors: tensors.update({"base_model.model.lm_head.bias": torch.ones(48)}), "the output head"),
        (lambda tensors: tensors.update({f"{NAMED}.more": torch.ones(1)}), "base_model.model.<module>.bias"),
    ],
)
def test_refused_tensors(biased: Tiny, tmp_path: Path, change: Any, message: str) -> None:
    adapter = written(biased, tmp_path)
    adapter.change_tensors(change)
    with pytest.raises(InvalidAdapter, match=message):
        adapter.admit()
    assert adapter.left_behind() == []
