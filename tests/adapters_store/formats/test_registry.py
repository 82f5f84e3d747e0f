from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, ShiraConfig

from polyad.adapters_store.delta import weighted_sum
from polyad.adapters_store.errors import InvalidAdapter
from polyad.adapters_store.formats.registry import PARSERS, reader_of
from tests.fixtures.deltas import written_out
from tests.fixtures.tiny import Tiny


@pytest.mark.parametrize("kind", sorted(PARSERS))
def test_a_config_of_adapterhub_is_told_apart(kind: str) -> None:
    """Both libraries call the file adapter_config.json; only PEFT's says peft_type."""
    with pytest.raises(
        InvalidAdapter, match=rf"peft_type: got None, allowed: .*'{kind}'.*AdapterHub's adapters library"
    ):
        reader_of({"config": {"architecture": "lora"}, "model_class": "LlamaModel", "hidden_size": 16})


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("PREFIX_TUNING", "virtual tokens"),
        ("PROMPT_TUNING", "virtual tokens"),
        ("LOHA", "neither low-rank, nor sparse"),
        ("LN_TUNING", "norms"),
        ("TRAINABLE_TOKENS", "token embeddings"),
        ("NEW", "'LORA', "),
        ("lora", "'LORA', "),
        (3, "'LORA', "),
        (["LORA"], "'LORA', "),
        (None, "'LORA', "),
    ],
)
def test_other_kinds_are_refused_with_the_reason(kind: Any, reason: str) -> None:
    with pytest.raises(InvalidAdapter, match=rf"adapter_config.peft_type: got .*{reason}"):
        reader_of({"peft_type": kind, "target_modules": ["q_proj"]})


@pytest.mark.parametrize("kind", sorted(PARSERS))
@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"brand_new": True}, "brand_new"),
        ({"task_type": "SEQ_CLS"}, "task_type"),
        ({"modules_to_save": ["x"]}, "modul"),
    ],
)
def test_no_kind_ignores_a_key(kind: str, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidAdapter, match=rf"adapter_config\.{field}"):
        reader_of({"peft_type": kind, **changes})


def test_blends_of_different_kinds(biased: Tiny, tmp_path: Path) -> None:
    """The weighted sum of deltas is the weighted sum of what PEFT's modules add to the base's."""
    configs = [
        LoraConfig(r=3, target_modules=["q_proj", "down_proj"], use_dora=True),
        IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"]),
        ShiraConfig(r=1, target_modules=["q_proj", "down_proj"]),
        LoraConfig(r=2, target_modules=["q_proj"], bias="lora_only", lora_bias=True),
    ]
    weights = [0.5, -0.3, 1.2, 2.0]
    adapters = [biased.trained(config, tmp_path / str(i)) for i, config in enumerate(configs)]
    blend = weighted_sum([adapter.delta() for adapter in adapters], weights)
    for module in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"):
        weight, bias = biased.weight(module), biased.bias(module)
        x = torch.randn(4, weight.shape[1], dtype=torch.float64)
        plain = x @ weight.t() + bias
        added = torch.zeros_like(plain)
        for adapter, factor in zip(adapters, weights, strict=True):
            with torch.no_grad():
                added += factor * (biased.in_peft(adapter).get_submodule(f"base_model.model.{module}")(x) - plain)
        matrix, moved = written_out(blend.modules[module], weight)
        torch.testing.assert_close(x @ matrix.t() + moved, added, rtol=1e-5, atol=1e-5)
