import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PretrainedConfig
from transformers.pytorch_utils import Conv1D

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.errors import ConfigError


def tiny_llama(**changes: Any) -> LlamaConfig:
    return LlamaConfig(
        **{
            "vocab_size": 48,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            **changes,
        }
    )


def tiny_gpt2() -> GPT2Config:
    return GPT2Config(vocab_size=48, n_embd=16, n_layer=2, n_head=2, n_positions=32)


def saved(config: PretrainedConfig, folder: Path) -> Path:
    config.save_pretrained(folder)
    return folder


def fingerprint(config: PretrainedConfig, folder: Path) -> str:
    return BaseModel.from_folder(saved(config, folder), "base").fingerprint


@pytest.mark.parametrize("config", [tiny_llama(), tiny_gpt2()], ids=["llama", "gpt2"])
def test_linears_have_the_shapes_of_the_real_model(tmp_path: Path, config: PretrainedConfig) -> None:
    base = BaseModel.from_folder(saved(config, tmp_path), "base")
    model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    expected = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head:
            width = module.weight.shape[1 if isinstance(module, torch.nn.Linear) else 0]
            expected[name] = (module(torch.zeros(1, width)).shape[1], width)
    assert base.linears == expected
    assert "lm_head" in base.reserved
    assert base.name == "base"


def test_fingerprint_is_of_the_architecture_not_of_the_place(tmp_path: Path) -> None:
    one = fingerprint(tiny_llama(), tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert BaseModel.from_folder(tmp_path / "two", "other").fingerprint == one
    content = json.loads((tmp_path / "two" / "config.json").read_text())
    content |= {"_name_or_path": "/elsewhere", "torch_dtype": "float16", "transformers_version": "5.0.0"}
    content |= {"use_cache": False, "eos_token_id": 7}
    (tmp_path / "two" / "config.json").write_text(json.dumps(dict(reversed(content.items()))))
    assert BaseModel.from_folder(tmp_path / "two", "base").fingerprint == one


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 3},
        {"vocab_size": 49},
        {"hidden_act": "gelu"},
        {"rms_norm_eps": 1e-3},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8},
    ],
)
def test_fingerprint_changes_with_the_architecture(tmp_path: Path, change: dict[str, Any]) -> None:
    assert fingerprint(tiny_llama(**change), tmp_path / "b") != fingerprint(tiny_llama(), tmp_path / "a")


@pytest.mark.parametrize(
    "content",
    [
        None,
        "{",
        "[]",
        "{}",
        '{"model_type": "no-such-model"}',
        '{"model_type": "t5"}',
        '{"model_type": "llama", "hidden_size": "wide"}',
        '{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}',
    ],
)
def test_unusable_folder(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('code of the model was run')")
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match="model: "):
        BaseModel.from_folder(tmp_path, "base")
