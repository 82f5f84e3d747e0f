import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PretrainedConfig
from transformers.pytorch_utils import Conv1D

from polyad.adapters_store.base_model import BaseModel, model_folder
from polyad.adapters_store.errors import ConfigError, InvalidInput
from tests.fixtures.tiny import Tiny


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


def test_weights_and_biases_are_those_of_the_model(tiny: Tiny, biased: Tiny, gpt2: Tiny) -> None:
    for one in (tiny, biased, gpt2):
        for module, shape in one.base.linears.items():
            weight, bias = one.base.weight(module), one.base.bias(module)
            assert tuple(weight.shape) == shape
            assert weight.double().equal(one.weight(module))
            assert torch.cat([block for _, block in one.base.weight_blocks(module)]).equal(one.weight(module))
            assert (bias is None) == (one is tiny)
            assert bias is None or bias.double().equal(one.bias(module))


def test_weights_whose_names_lack_the_prefix_of_the_inner_model(gpt2: Tiny, tmp_path: Path) -> None:
    """Files of the bare model name `h.0...` what the whole one names `transformer.h.0...`."""
    gpt2.model.config.save_pretrained(tmp_path)
    gpt2.model.transformer.save_pretrained(tmp_path)
    base = BaseModel.from_folder(tmp_path, "bare")
    for module in base.linears:
        assert base.weight(module).double().equal(gpt2.weight(module))
        bias = base.bias(module)
        assert bias is not None and bias.double().equal(gpt2.bias(module))


def test_weights_that_cannot_be_used_are_named(tiny: Tiny, tmp_path: Path) -> None:
    module = "model.layers.0.self_attn.q_proj"
    shutil.copytree(tiny.folder, tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    whole = load_file(file)
    for stored, message in (
        (None, "no such tensor"),
        (torch.ones(128, 1, dtype=torch.uint8), r"shape: got \(128, 1\).*not packed, not quantised"),
        (torch.ones(16, 16, dtype=torch.int8), "got 'I8'.*quantised weights cannot be used"),
    ):
        tensors = {**whole, f"{module}.weight": stored}
        save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, file)
        base = BaseModel.from_folder(tmp_path / "base", "base")
        for read in (base.weight, lambda name, base=base: list(base.weight_blocks(name))):
            with pytest.raises(InvalidInput, match=rf"model: {module}.weight: .*{message}|{module}.*{message}"):
                read(module)
    with pytest.raises(InvalidInput, match="'known' is known without"):
        BaseModel("known", "f", {module: (16, 16)}).weight(module)


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


def test_model_is_a_folder_or_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model_folder(str(tmp_path)) == tmp_path
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("/no/such/folder", "nobody/has-this-model", "a b"):
        with pytest.raises(ConfigError, match=f"model: got '{name}', neither a folder nor a model"):
            model_folder(name)
