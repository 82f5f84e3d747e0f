import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, get_peft_model

from polyad.adapters_store.delta import dense
from polyad.adapters_store.delta.module_delta import ModuleDelta
from polyad.adapters_store.errors import InvalidAdapter
from polyad.adapters_store.formats.adalora import ADALORA_KEYS, adalora_term
from tests.fixtures.tiny import Adapter, Tiny

TARGETS = ["q_proj", "k_proj", "down_proj"]
Q0 = "model.layers.0.self_attn.q_proj"
NAMED = f"base_model.model.{Q0}"


def config(**changes: Any) -> AdaLoraConfig:
    return AdaLoraConfig(init_r=4, target_r=2, total_step=10, lora_alpha=5, target_modules=TARGETS, **changes)


def test_formula() -> None:
    a, b = torch.randn(3, 5, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    e = torch.randn(3, 1, dtype=torch.float64)
    change, _ = dense(ModuleDelta(low_rank=adalora_term(a, b, e, scale=0.3)), dtype=torch.float64)
    assert change is not None
    torch.testing.assert_close(change, 0.3 * b @ torch.diag(e[:, 0]) @ a, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("bias", ["none", "all", "lora_only"])
def test_as_in_peft(biased: Tiny, tmp_path: Path, bias: str) -> None:
    adapter = biased.trained(config(bias=bias), tmp_path)
    biased.assert_as_in_peft(adapter)
    assert (adapter.admit().kind, adapter.admit().rank) == ("adalora", 4)


def pruned(tiny: Tiny, folder: Path) -> Adapter:
    """Saved after some ranks were pruned, in one module all of them."""
    model = get_peft_model(copy.deepcopy(tiny.model), config())
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    model.peft_config["default"].rank_pattern = {
        f"{Q0}.lora_E.default": [True, False, True, False],
        "model.layers.1.self_attn.q_proj.lora_E.default": [False] * 4,
        "model.layers.2.mlp.down_proj.lora_E.default": [False, False, False, True],
    }
    tiny.save(model, folder)
    return Adapter(folder, tiny.base)


def test_pruned_ranks_are_as_in_peft(tiny: Tiny, tmp_path: Path) -> None:
    adapter = pruned(tiny, tmp_path)
    delta = tiny.assert_as_in_peft(adapter)
    ranks = {module: change.low_rank.rank for module, change in delta.modules.items() if change.low_rank}
    assert ranks[Q0] == 2 and ranks["model.layers.2.mlp.down_proj"] == 1
    assert "model.layers.1.self_attn.q_proj" not in ranks
    assert ranks["model.layers.1.self_attn.k_proj"] == 4


def test_conv1d_layers(gpt2: Tiny, tmp_path: Path) -> None:
    adalora = AdaLoraConfig(init_r=3, target_r=2, total_step=9, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
    gpt2.assert_as_in_peft(gpt2.trained(adalora, tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_r": 5}, r"shape: got \[4, 24\], allowed: \[5, 24\] \(5 ranks are left"),
        ({"init_r": 0}, "init_r: got 0"),
        ({"lora_alpha": 0}, "lora_alpha: got 0.0, allowed: a positive number"),
        ({"lora_alpha": -1}, "lora_alpha: got -1.0, allowed: a positive number"),
        ({"rank_pattern": {f"{Q0}.lora_E": [True]}}, "with a list of 4 true or false"),
        ({"rank_pattern": {f"{Q0}.lora_E": [1, 0, 1, 0]}}, "with a list of 4 true or false"),
        ({"rank_pattern": {f"{Q0}.lora_A": [True] * 4}}, "<module>.lora_E with"),
        ({"rank_pattern": {"lm_head.lora_E": [True] * 4}}, "rank_pattern: got 'lm_head'"),
        ({"rank_pattern": {f"{Q0}.lora_E": [True, True, True, False]}}, r"shape: got \[4, 16\], allowed: \[3, 16\]"),
        ({"use_dora": True}, "AdaLoRA has no DoRA"),
        ({"lora_bias": True}, "AdaLoRA has no bias"),
        ({"use_rslora": True}, "AdaLoRA has its own scale"),
        ({"alpha_pattern": {"q_proj": 3}}, "AdaLoRA has one alpha"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: got 'pissa'"),
        ({"modules_to_save": ["lm_head"]}, "modules trained in full"),
        ({"layer_replication": [[0, 2]]}, "changes the layers of the base model"),
        ({"brand_new": 1}, "brand_new: got 1"),
    ],
)
def test_refused_config(tiny: Tiny, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    adapter = tiny.trained(config(), tmp_path)
    adapter.change_config(**changes)
    with pytest.raises(InvalidAdapter, match=message):
        adapter.admit()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(f"{NAMED}.lora_E"), f"no lora_E for {Q0}"),
        (lambda tensors: tensors.pop(f"{NAMED}.lora_B"), f"no lora_B for {Q0}"),
        (lambda tensors: tensors.update({f"{NAMED}.lora_E": torch.ones(4)}), r"shape: got \[4\], allowed: \[4, 1\]"),
        (lambda tensors: tensors[f"{NAMED}.lora_E"].fill_(float("nan")), "NaN"),
        (lambda tensors: tensors.update({f"{NAMED}.ranknum": torch.ones(1)}), "lora_A, .lora_B and .lora_E"),
    ],
)
def test_refused_tensors(tiny: Tiny, tmp_path: Path, change: Any, message: str) -> None:
    adapter = tiny.trained(config(), tmp_path)
    adapter.change_tensors(change)
    with pytest.raises(InvalidAdapter, match=message):
        adapter.admit()
    assert adapter.left_behind() == []


def test_every_key_that_peft_writes_has_a_rule() -> None:
    assert config().to_dict().keys() - ADALORA_KEYS.known == set()
