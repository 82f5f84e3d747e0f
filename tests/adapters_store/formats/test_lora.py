"""What LoRA has beside its factors; tests/adapters_store/admission has the factors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from polyad.adapters_store.errors import InvalidAdapter
from tests.fixtures.tiny import Tiny

TARGETS = ["q_proj", "k_proj", "down_proj"]
Q0 = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    "config",
    [
        {"lora_bias": True},
        {"lora_bias": True, "use_rslora": True, "rank_pattern": {"k_proj": 2}},
        {"bias": "lora_only"},
        {"bias": "all"},
        {"bias": "all", "lora_bias": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("base", ["tiny", "biased"])
def test_biases_are_as_in_peft(
    request: pytest.FixtureRequest, tmp_path: Path, base: str, config: dict[str, Any]
) -> None:
    tiny: Tiny = request.getfixturevalue(base)
    adapter = tiny.trained(LoraConfig(r=3, lora_alpha=5, target_modules=TARGETS, **config), tmp_path)
    delta = tiny.assert_as_in_peft(adapter)
    changed = {module for module, change in delta.modules.items() if change.bias is not None}
    if config.get("bias") == "all":
        assert tiny.base.biased <= changed
    else:
        assert all(module.split(".")[-1] in TARGETS for module in changed)
    assert bool(changed) == (base == "biased" or "lora_bias" in config)
    assert adapter.admit().kind == "lora"


def test_factors_beside_biases_are_copied_as_they_are(biased: Tiny, tmp_path: Path) -> None:
    adapter = biased.trained(LoraConfig(r=3, target_modules=TARGETS, bias="lora_only", lora_bias=True), tmp_path)
    adapter.change_tensors(
        lambda tensors: tensors.update({name: tensor.bfloat16() for name, tensor in tensors.items()})
    )
    change = adapter.delta().modules["model.layers.0.self_attn.q_proj"]
    assert {change.low_rank.a.dtype, change.low_rank.b.dtype} == {torch.bfloat16}
    assert change.bias.dtype == torch.float32


def test_biases_of_conv1d_layers(gpt2: Tiny, tmp_path: Path) -> None:
    config = LoraConfig(r=3, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, bias="lora_only")
    gpt2.assert_as_in_peft(gpt2.trained(config, tmp_path))


def test_biases_of_norms_are_refused(gpt2: Tiny, tmp_path: Path) -> None:
    adapter = gpt2.trained(LoraConfig(r=3, target_modules=["c_attn"], fan_in_fan_out=True, bias="all"), tmp_path)
    with pytest.raises(InvalidAdapter, match=r"ln_.*linear layers of base model 'tiny', it has no transformer\..*ln_"):
        adapter.admit()


@pytest.mark.parametrize("name", [f"{Q0}.bias", f"{Q0}.base_layer.bias"])
def test_both_names_of_a_bias_are_known(biased: Tiny, tmp_path: Path, name: str) -> None:
    adapter = biased.trained(LoraConfig(r=3, target_modules=TARGETS, bias="lora_only"), tmp_path)
    digest = adapter.admit().digest
    adapter.change_tensors(lambda tensors: tensors.update({name: tensors.pop(f"{Q0}.base_layer.bias")}))
    assert adapter.admit().digest == digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: tensors.pop(f"{Q0}.base_layer.bias"),
            "no bias for model.layers.0.self_attn.q_proj.*lora_only",
        ),
        (lambda tensors: tensors.update({f"{Q0}.bias": torch.ones(16)}), "is there as well"),
        (
            lambda tensors: tensors.update({f"{Q0}.base_layer.bias": torch.ones(15)}),
            r"shape: got \[15\].*the outputs of",
        ),
        (lambda tensors: tensors[f"{Q0}.base_layer.bias"].fill_(float("nan")), "NaN"),
        (lambda tensors: tensors.update({f"{Q0[:-6]}v_proj.bias": torch.ones(8)}), "v_proj is not one of them"),
        (lambda tensors: tensors.update({f"{Q0}.lora_B.bias": torch.ones(16)}), "lora_B"),
    ],
)
def test_refused_biases(biased: Tiny, tmp_path: Path, change: Any, message: str) -> None:
    adapter = biased.trained(LoraConfig(r=3, target_modules=TARGETS, bias="lora_only"), tmp_path)
    adapter.change_tensors(change)
    with pytest.raises(InvalidAdapter, match=message):
        adapter.admit()
    assert adapter.left_behind() == []


def test_a_bias_that_the_config_does_not_mean(biased: Tiny, tmp_path: Path) -> None:
    adapter = biased.trained(LoraConfig(r=3, target_modules=TARGETS, bias="lora_only"), tmp_path)
    adapter.change_config(bias="none")
    with pytest.raises(InvalidAdapter, match=r"base_layer.bias', allowed: base_model.model.<module>.lora_A.weight"):
        adapter.admit()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(f"{Q0}.lora_B.bias"), "no lora_B.bias for model.layers.0.self_attn.q_proj"),
        (lambda tensors: tensors.update({f"{Q0}.lora_B.bias": torch.ones(3)}), r"shape: got \[3\], allowed: \[16\]"),
        (lambda tensors: tensors[f"{Q0}.lora_B.bias"].fill_(float("inf")), "infinity"),
    ],
)
def test_refused_lora_bias(tiny: Tiny, tmp_path: Path, change: Any, message: str) -> None:
    adapter = tiny.trained(LoraConfig(r=3, target_modules=TARGETS, lora_bias=True), tmp_path)
    adapter.change_tensors(change)
    with pytest.raises(InvalidAdapter, match=message):
        adapter.admit()


def test_rank_is_limited(tiny: Tiny, tmp_path: Path) -> None:
    adapter = tiny.trained(LoraConfig(r=3, rank_pattern={"k_proj": 17}, target_modules=TARGETS), tmp_path)
    with pytest.raises(InvalidAdapter, match=r"layers.0.self_attn.k_proj: rank: got 17, allowed: ranks from 1 to 16"):
        adapter.admit()
