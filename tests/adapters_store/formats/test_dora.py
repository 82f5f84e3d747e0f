from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.delta import LowRank, dense
from polyad.adapters_store.errors import InvalidAdapter, InvalidInput
from polyad.adapters_store.formats.dora import dora_delta
from tests.fixtures.tiny import Adapter, Tensors, Tiny

TARGETS = ["q_proj", "k_proj", "down_proj"]
Q0 = "base_model.model.model.layers.0.self_attn.q_proj"


@settings(max_examples=40, deadline=None)
@given(
    out_features=st.integers(1, 9), in_features=st.integers(1, 9), rank=st.integers(1, 4), seed=st.integers(0, 10**6)
)
def test_formula(out_features: int, in_features: int, rank: int, seed: int) -> None:
    """W' = diag(m / |W + sBA|) (W + sBA), the paper's equation 5, with rows for columns as torch stores them."""
    generator = torch.Generator().manual_seed(seed)
    w, a, b, m = (
        torch.randn(size, generator=generator, dtype=torch.float64)
        for size in ((out_features, in_features), (rank, in_features), (out_features, rank), (out_features,))
    )
    directions = w + 0.7 * b @ a
    expected = m[:, None] * directions / directions.square().sum(1, keepdim=True).sqrt()
    middle = out_features // 2
    blocks = [(slice(0, middle), w[:middle]), (slice(middle, out_features), w[middle:])]
    change, bias = dense(dora_delta(blocks, LowRank(a, b, 0.7), m), w, dtype=torch.float64)
    assert change is not None and bias is None
    torch.testing.assert_close(w + change, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "config", [{}, {"use_rslora": True, "rank_pattern": {"k_proj": 2}}, {"bias": "all"}, {"bias": "lora_only"}], ids=str
)
@pytest.mark.parametrize("base", ["tiny", "biased"])
def test_as_in_peft(request: pytest.FixtureRequest, tmp_path: Path, base: str, config: dict[str, Any]) -> None:
    tiny: Tiny = request.getfixturevalue(base)
    adapter = tiny.trained(LoraConfig(r=3, lora_alpha=5, target_modules=TARGETS, use_dora=True, **config), tmp_path)
    delta = tiny.assert_as_in_peft(adapter)
    assert adapter.admit().kind == "dora"
    change = delta.modules["model.layers.1.mlp.down_proj"]
    assert change.low_rank is not None and change.row_scale is not None


def test_conv1d_layers(gpt2: Tiny, tmp_path: Path) -> None:
    config = LoraConfig(r=3, target_modules=["c_attn", "c_proj", "c_fc"], use_dora=True, fan_in_fan_out=True)
    gpt2.assert_as_in_peft(gpt2.trained(config, tmp_path))


@pytest.fixture
def adapter(tiny: Tiny, tmp_path: Path) -> Adapter:
    return tiny.trained(LoraConfig(r=3, target_modules=TARGETS, use_dora=True), tmp_path)


@pytest.mark.parametrize("suffix", [".weight", ".default", ".default.weight"])
def test_older_names_of_the_magnitude(adapter: Adapter, suffix: str) -> None:
    digest = adapter.admit().digest

    def rename(tensors: Tensors) -> None:
        for name in list(tensors):
            new = name + suffix if name.endswith("lora_magnitude_vector") else name
            tensors[new.replace(".weight", ".default.weight") if "default" in suffix and new == name else new] = (
                tensors.pop(name)
            )

    adapter.change_tensors(rename)
    assert adapter.admit().digest == digest


def overflowing(tensors: Tensors) -> None:
    """Each value is finite; the gain times B is not."""
    tensors[f"{Q0}.lora_magnitude_vector"].fill_(3e38)
    tensors[f"{Q0}.lora_A.weight"].fill_(1e-3)
    tensors[f"{Q0}.lora_B.weight"].fill_(1e3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(f"{Q0}.lora_magnitude_vector"), "no lora_magnitude_vector for model.layers.0"),
        (lambda tensors: tensors.pop(f"{Q0}.lora_B.weight"), "no lora_B for model.layers.0.self_attn.q_proj"),
        (lambda tensors: tensors.update({f"{Q0}.lora_magnitude_vector": torch.ones(15)}), r"shape: got \[15\]"),
        (lambda tensors: tensors.update({f"{Q0}.lora_magnitude_vector": torch.ones(16, 1)}), r"shape: got \[16, 1\]"),
        (lambda tensors: tensors[f"{Q0}.lora_magnitude_vector"].fill_(float("nan")), "NaN"),
        (overflowing, "q_proj: low_rank.b: got 'NaN or infinity after conversion'"),
    ],
)
def test_refused(adapter: Adapter, change: Any, message: str) -> None:
    adapter.change_tensors(change)
    with pytest.raises(InvalidAdapter, match=message):
        adapter.admit()
    assert adapter.left_behind() == []


def test_a_magnitude_without_the_switch(adapter: Adapter) -> None:
    adapter.change_config(use_dora=False)
    with pytest.raises(InvalidAdapter, match="DoRA is not switched on"):
        adapter.admit()


def test_a_base_without_weights_is_named(adapter: Adapter, tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_bytes((tiny.folder / "config.json").read_bytes())
    adapter.base = BaseModel.from_folder(tmp_path / "bare", "bare")
    with pytest.raises(InvalidInput, match="model: got 'bare', allowed: a folder with model.safetensors"):
        adapter.admit()
    assert adapter.left_behind() == []
