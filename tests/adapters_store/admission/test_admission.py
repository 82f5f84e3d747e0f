import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from polyad.adapters_store.admission import Limits, admit
from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.delta import read_delta
from polyad.adapters_store.errors import InvalidAdapter, TooLarge
from polyad.adapters_store.formats.lora_keys import LORA_KEYS
from tests.fixtures.fuzzing import fuzz

Make = Callable[..., Any]
Q0 = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_rslora": True},
        {"r": 3, "lora_alpha": 0.5},
        {"rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 7}},
        {"alpha_pattern": {"q_proj": 3, r"layers\.[12]\.mlp.*": 32}},
        {"use_rslora": True, "rank_pattern": {"^model.layers.0.self_attn.q_proj": 5, "q_proj": 2}},
        {"rank_pattern": {r".*\.0\..*": 2, "q_proj": 9}, "alpha_pattern": {"q_proj": 5, r".*\.0\..*": 1}},
        {"layers_to_transform": [0, 2]},
        {"layers_to_transform": 1, "layers_pattern": "layers"},
        {"layers_to_transform": [1], "layers_pattern": ["blocks", "layers"]},
        {"layers_to_transform": [0], "target_modules": ["q_proj", "model.layers.2.mlp.up_proj"]},
        {"target_modules": "all-linear"},
        {"target_modules": r".*layers\.(0|2)\..*(q|v)_proj"},
        {"target_modules": ["proj", "self_attn.o_proj", "query_key_value"]},
        {"target_modules": "all-linear", "exclude_modules": ["mlp.up_proj", "q_proj"]},
        {"exclude_modules": r".*\.1\..*"},
        {"fan_in_fan_out": False, "lora_dropout": 0.1, "init_lora_weights": "gaussian"},
    ],
    ids=str,
)
def test_delta_is_what_peft_computes(make_adapter: Make, peft_deltas: Make, config: dict[str, Any]) -> None:
    adapter = make_adapter(**config)
    admitted = adapter.admit()
    expected = peft_deltas(adapter.folder)
    delta = read_delta(adapter.destination)
    assert delta.modules.keys() == expected.keys()
    for module, change in delta.modules.items():
        assert change.is_low_rank
        term = change.low_rank
        dense = term.scale * (term.b.double() @ term.a.double())
        torch.testing.assert_close(dense, expected[module], rtol=1e-12, atol=1e-14)
    assert admitted.modules == len(expected)
    assert admitted.targets == tuple(sorted({module.split(".")[-1] for module in expected}))
    assert admitted.rank == max(change.low_rank.rank for change in delta.modules.values())
    assert admitted.kind == "lora"


def test_what_is_said_of_the_file(adapter: Any) -> None:
    adapter.change_config(base_model_name_or_path="org/model")
    admitted = adapter.admit()
    content = adapter.destination.read_bytes()
    assert (admitted.digest, admitted.size) == (hashlib.sha256(content).hexdigest(), len(content))
    assert (admitted.base, admitted.declared_base) == (adapter.base.fingerprint, "org/model")
    assert adapter.left_behind() == [adapter.destination]
    again = adapter.admit()
    assert again == admitted


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtypes_are_kept(adapter: Any, dtype: torch.dtype) -> None:
    adapter.change_tensors(lambda tensors: tensors.update({name: t.to(dtype) for name, t in tensors.items()}))
    adapter.admit()
    assert {change.low_rank.a.dtype for change in read_delta(adapter.destination).modules.values()} == {dtype}


def test_names_with_an_adapter_in_them_mean_the_same(adapter: Any) -> None:
    digest = adapter.admit().digest

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.replace(".weight", ".default.weight")] = tensors.pop(name)

    adapter.change_tensors(rename)
    assert adapter.admit().digest == digest


def test_keys_of_newer_versions_that_are_off(adapter: Any) -> None:
    adapter.change_config(brand_new=None, use_brand_new=False, brand_new_config={}, brand_new_list=[])
    adapter.admit()
    adapter.change_config(use_brand_new=True)
    with pytest.raises(InvalidAdapter, match=r"adapter_config\.use_brand_new: got True"):
        adapter.admit()


REFUSED_CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"peft_type": "LOHA"}, r"peft_type: got 'LOHA', allowed: 'LORA'"),
    ({"peft_type": None}, "peft_type"),
    ({"peft_type": None, "config": {"architecture": "lora"}, "model_class": "X"}, "AdapterHub"),
    ({"peft_type": ["LORA"]}, "peft_type"),
    ({"task_type": "SEQ_CLS"}, "task_type: got 'SEQ_CLS'"),
    ({"r": 0}, r"\.r: got 0, allowed: a positive integer"),
    ({"r": -4}, r"\.r: got -4"),
    ({"r": 4.0}, r"\.r: got 4.0"),
    ({"r": True}, r"\.r: got True"),
    ({"r": "4"}, r"\.r: got '4'"),
    ({"r": 17}, r"shape: got \[4, 24\], allowed: \[17, 24\] \(rank 17"),
    ({"r": 10**3000}, r"\.r: got 1000"),
    ({"rank_pattern": {"q_proj": 64}}, r"shape: got \[4, 16\], allowed: \[64, 16\]"),
    ({"rank_pattern": {"q_proj": 0}}, "rank_pattern.q_proj: got 0"),
    ({"rank_pattern": {"q_proj": 3}}, r"shape: got \[4, 16\], allowed: \[3, 16\]"),
    ({"rank_pattern": ["q_proj"]}, "rank_pattern: got"),
    ({"rank_pattern": {"(": 4}}, r"rank_pattern: got '.*', allowed: a regular expression"),
    ({"rank_pattern": {"x" * 1001: 4}}, "patterns of 1 to 1000 characters"),
    ({"lora_alpha": "6"}, "lora_alpha: got '6'"),
    ({"lora_alpha": True}, "lora_alpha"),
    ({"lora_alpha": None}, "lora_alpha"),
    ({"lora_alpha": 10**400}, "lora_alpha"),
    ({"lora_alpha": -1e300}, "lora_alpha"),
    ({"alpha_pattern": {"q_proj": 1e7}}, r"alpha_pattern.q_proj: got 10000000.0"),
    ({"use_rslora": 1}, "use_rslora: got 1"),
    ({"use_dora": True}, "no lora_magnitude_vector for"),
    ({"use_dora": 0}, "use_dora: got 0"),
    ({"lora_bias": True}, "no lora_B.bias for"),
    ({"lora_bias": True, "use_dora": True}, "lora_bias: got True, allowed: false with use_dora"),
    ({"bias": "some"}, "bias: got 'some', allowed: 'none' or 'all' or 'lora_only'"),
    ({"bias": None}, "bias"),
    ({"modules_to_save": ["lm_head"]}, r"modules_to_save: got \['lm_head'\]"),
    ({"layer_replication": [[0, 2]]}, "layer_replication"),
    ({"target_parameters": ["mlp.experts"]}, "target_parameters"),
    ({"trainable_token_indices": [1]}, "trainable_token_indices"),
    ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
    ({"use_qalora": True}, "use_qalora"),
    ({"use_bdlora": {}}, "use_bdlora"),
    ({"arrow_config": {}}, "arrow_config"),
    ({"kasa_config": {}}, "kasa_config"),
    ({"velora_config": {}}, "velora_config"),
    ({"monteclora_config": {}}, "monteclora_config"),
    ({"megatron_config": {}}, "megatron_config"),
    ({"ensure_weight_tying": True}, "ensure_weight_tying"),
    ({"fan_in_fan_out": "yes"}, "fan_in_fan_out"),
    ({"lora_dropout": "none"}, "lora_dropout"),
    *(
        ({"init_lora_weights": name}, "init_lora_weights.*path_initial_model_for_weight_conversion")
        for name in [
            "pissa",
            "pissa_niter_4",
            "olora",
            "corda",
            "loftq",
            "lora_ga",
            "mica",
            "",
            None,
            1,
            [],
            "olora_niter_4",
        ]
    ),
    ({"base_model_name_or_path": 3}, "base_model_name_or_path"),
    ({"base_model_name_or_path": "a\x1b[2Jb"}, "base_model_name_or_path"),
    ({"target_modules": None}, "target_modules: got None"),
    ({"target_modules": []}, r"target_modules: got \[\]"),
    ({"target_modules": ["nothing"]}, "modules of base model 'tiny'"),
    ({"target_modules": ["q_proj", 3]}, "target_modules"),
    ({"target_modules": ["q_proj", "down_proj", "lm_head"]}, "target_modules: got 'lm_head'"),
    ({"target_modules": ["q_proj", "down_proj", "embed_tokens"]}, "target_modules: got 'model.embed_tokens'"),
    ({"target_modules": "(q_proj"}, "a regular expression"),
    ({"target_modules": "q_proj"}, "modules of base model 'tiny'"),
    ({"target_modules": ["q_proj"]}, "mlp.down_proj is not one of them"),
    ({"target_modules": ["q_proj", "down_proj", "v_proj"]}, r"no lora_A for model.layers.0.self_attn.v_proj"),
    ({"exclude_modules": ["layers.0.self_attn.q_proj"]}, "layers.0.self_attn.q_proj is not one of them"),
    ({"exclude_modules": 0}, "exclude_modules: got 0"),
    ({"exclude_modules": "["}, "exclude_modules: got '\\['"),
    ({"layers_to_transform": [0]}, "layers.1.mlp.down_proj is not one of them"),
    ({"layers_to_transform": ["0"]}, "layers_to_transform"),
    ({"layers_to_transform": [True]}, "layers_to_transform"),
    ({"layers_pattern": "layers"}, "layers_pattern"),
    ({"layers_to_transform": [0], "layers_pattern": "(?P<idx>x)"}, "layers_pattern.*a regular expression"),
    ({"layers_to_transform": [0], "layers_pattern": [1]}, "layers_pattern"),
    ({"layers_to_transform": [0], "target_modules": ".*q_proj"}, "null when target_modules is a string"),
    ({"target_modules": r"((.*)*)*x"}, "within 2 s"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED_CONFIGS, ids=lambda value: str(value)[:60])
def test_refused_config(adapter: Any, changes: dict[str, Any], message: str) -> None:
    adapter.change_config(**changes)
    with pytest.raises(InvalidAdapter, match=message) as refusal:
        adapter.admit()
    assert refusal.value.field is not None
    assert refusal.value.field.startswith("adapter_")
    assert len(str(refusal.value)) < 1000
    assert adapter.left_behind() == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "valid JSON"),
        (b"[]", "a JSON object"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"r": 4, "r": 8}', "each key once"),
        (b'{"rank_pattern": {"q": 1, "q": 2}}', "each key once"),
        (b'{"lora_alpha": NaN}', "no NaN"),
        (b'{"lora_alpha": Infinity}', "no NaN"),
        (b'{"lora_alpha": 1e999, "peft_type": "LORA"}', "lora_alpha: got inf"),
        (b'{"peft_type": "LORA", "x": ' + b"[" * 10_000, "deep nesting"),
    ],
)
def test_refused_config_bytes(adapter: Any, content: bytes, message: str) -> None:
    adapter.config.write_bytes(content)
    with pytest.raises(InvalidAdapter, match=message):
        adapter.admit()


def spoil(name: str, value: float) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name].view(-1)[-1] = value

    return change


def rename(old: str, new: str) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: tensors.update({new: tensors.pop(old)})


def replace(name: str, *shape: int) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: tensors.update({name: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            spoil(f"{Q0}.lora_A.weight", float("nan")),
            r"model.layers.0.self_attn.q_proj.lora_A.weight: got 'NaN or infinity'",
        ),
        (
            spoil(f"{Q0}.lora_B.weight", float("inf")),
            r"model.layers.0.self_attn.q_proj.lora_B.weight: got 'NaN or infinity'",
        ),
        (spoil(f"{Q0}.lora_B.weight", float("-inf")), "finite values"),
        (lambda tensors: tensors.pop(f"{Q0}.lora_A.weight"), "no lora_A for model.layers.0.self_attn.q_proj"),
        (lambda tensors: tensors.pop(f"{Q0}.lora_B.weight"), "no lora_B for model.layers.0.self_attn.q_proj"),
        (lambda tensors: tensors.clear(), "no lora_A"),
        (replace(f"{Q0}.lora_A.weight", 4, 15), r"shape: got \[4, 15\], allowed: \[4, 16\]"),
        (replace(f"{Q0}.lora_A.weight", 5, 16), r"shape: got \[5, 16\], allowed: \[4, 16\] \(rank 4"),
        (replace(f"{Q0}.lora_B.weight", 16, 5), r"shape: got \[16, 5\], allowed: \[16, 4\]"),
        (replace(f"{Q0}.lora_B.weight", 4, 16), r"shape: got \[4, 16\], allowed: \[16, 4\]"),
        (replace(f"{Q0}.lora_A.weight", 64), r"shape: got \[64\]"),
        (replace(f"{Q0}.lora_A.weight", 0, 16), r"shape: got \[0, 16\]"),
        (replace("base_model.model.model.layers.9.mlp.down_proj.lora_A.weight", 4, 4), "has no model.layers.9.mlp"),
        (replace("base_model.model.lm_head.lora_A.weight", 4, 4), "output head"),
        (replace("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight", 4, 16), "is not one of them"),
        (replace("base_model.model.lm_head.weight", 4, 4), "base_model.model.<module>.lora_A.weight"),
        (replace(f"{Q0}.lora_magnitude_vector", 16), "DoRA"),
        (replace(f"{Q0}.lora_B.bias", 16), "LoRA with a bias"),
        (replace("base_model.model.model.embed_tokens.lora_embedding_A", 4, 48), "adapted embeddings"),
        (replace(f"base_model.model.{'x' * 500}.lora_A.weight", 4, 48), "<module>"),
        (rename(f"{Q0}.lora_A.weight", f"{Q0}.lora_A.other.weight"), "tensors of one adapter"),
        (rename(f"{Q0}.lora_A.weight", f"{Q0[17:]}.lora_A.weight"), "base_model.model.<module>"),
        (
            lambda tensors: tensors.update({name: tensor.double() for name, tensor in tensors.items()}),
            "dtype: got 'F64', allowed: F32, F16, BF16",
        ),
    ],
)
def test_refused_tensors(adapter: Any, change: Callable[[dict[str, torch.Tensor]], None], message: str) -> None:
    adapter.change_tensors(change)
    with pytest.raises(InvalidAdapter, match=message):
        adapter.admit()
    assert adapter.left_behind() == []


def test_a_value_that_is_not_finite_is_found_in_any_piece(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polyad.adapters_store.formats.tensor_file._PIECE_BYTES", 8)
    adapter.admit()
    for position in range(64):
        adapter.change_tensors(
            lambda tensors, at=position: tensors.update(
                {f"{Q0}.lora_A.weight": torch.zeros(64).index_fill(0, torch.tensor([at]), float("nan")).view(4, 16)}
            )
        )
        with pytest.raises(InvalidAdapter, match="NaN or infinity"):
            adapter.admit()


def pickled(path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, path)


def old_pickled(path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (pickled, "zip archive"),
        (old_pickled, "a pickle"),
        (lambda path: path.write_bytes(b"GGUF" + bytes(100)), "GGUF"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)), "HDF5"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "Git LFS"),
        (lambda path: path.write_bytes(b""), "lies inside it"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "where the last tensor ends"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "where the last tensor ends"),
        (lambda path: path.write_bytes(struct.pack("<Q", 2**62) + path.read_bytes()[8:]), "lies inside it"),
    ],
)
def test_refused_file(adapter: Any, write: Callable[[Path], None], message: str) -> None:
    write(adapter.weights)
    with pytest.raises(InvalidAdapter, match=message):
        adapter.admit()
    assert adapter.left_behind() == []


@pytest.mark.parametrize(
    ("limit", "message"),
    [("max_bytes", "adapter_model"), ("max_config_bytes", "adapter_config"), ("max_header_bytes", "header")],
)
def test_limits_on_bytes(adapter: Any, limit: str, message: str) -> None:
    header = int.from_bytes(adapter.weights.read_bytes()[:8], "little")
    sizes = {
        "max_bytes": adapter.weights.stat().st_size,
        "max_config_bytes": adapter.config.stat().st_size,
        "max_header_bytes": header,
    }
    adapter.limits = Limits(**{"max_rank": 16, limit: sizes[limit]})
    adapter.admit()
    adapter.destination.unlink()
    adapter.limits = Limits(**{"max_rank": 16, limit: sizes[limit] - 1})
    with pytest.raises(TooLarge, match=f"{message}.*at most {sizes[limit] - 1}"):
        adapter.admit()
    assert adapter.left_behind() == []


def test_refusal_keeps_what_was_there(adapter: Any) -> None:
    adapter.admit()
    before = adapter.destination.read_bytes()
    adapter.change_tensors(spoil(f"{Q0}.lora_B.weight", float("nan")))
    with pytest.raises(InvalidAdapter):
        adapter.admit()
    assert adapter.destination.read_bytes() == before
    assert adapter.left_behind() == [adapter.destination]


@fuzz(150)
@given(data=st.data())
def test_mutated_files_are_admitted_or_refused(adapter: Any, data: st.DataObject) -> None:
    weights, config = adapter.weights.read_bytes(), adapter.config.read_bytes()
    target, content = data.draw(st.sampled_from([(adapter.weights, weights), (adapter.config, config)]))
    header = int.from_bytes(weights[:8], "little") + 8 if target == adapter.weights else len(content)
    at = data.draw(st.integers(0, header - 1))
    piece = data.draw(st.binary(max_size=4) | st.sampled_from([b'"', b"{}", b"null", b"-1", b"9" * 30, b"[]"]))
    target.write_bytes(content[:at] + piece + content[at + data.draw(st.integers(0, 3)) :])
    try:
        adapter.admit()
    except (InvalidAdapter, TooLarge):
        assert adapter.left_behind() == []
    else:
        read_delta(adapter.destination)
        adapter.destination.unlink()
    finally:
        adapter.weights.write_bytes(weights)
        adapter.config.write_bytes(config)


@fuzz(150)
@given(
    key=st.sampled_from(["r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules"])
    | st.sampled_from(["layers_to_transform", "layers_pattern", "init_lora_weights", "task_type", "bias"])
    | st.text(max_size=6),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(["q_proj", "(", ""]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["q", "", "["]), inner, max_size=3),
        max_leaves=6,
    ),
)
def test_any_value_of_any_key(adapter: Any, key: str, value: Any) -> None:
    config = json.loads(adapter.config.read_text())
    adapter.config.write_text(json.dumps(config | {key: value}))
    try:
        adapter.admit()
        adapter.destination.unlink()
    except (InvalidAdapter, TooLarge):
        assert adapter.left_behind() == []
    finally:
        adapter.config.write_text(json.dumps(config))


def test_conv1d_layers_whose_weights_lie_transposed(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=48, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    config.save_pretrained(tmp_path / "base")
    lora = LoraConfig(r=4, target_modules=["c_attn", "c_proj"], init_lora_weights=False, fan_in_fan_out=True)
    model = get_peft_model(GPT2LMHeadModel(config), lora)
    model.save_pretrained(tmp_path)
    base = BaseModel.from_folder(tmp_path / "base", "tiny")
    content = (tmp_path / "adapter_config.json").read_bytes()
    assert json.loads(content)["fan_in_fan_out"] is True
    admit(content, tmp_path / "adapter_model.safetensors", base, Limits(max_rank=4), tmp_path / "delta")
    modules = dict(model.double().named_modules())
    for module, change in read_delta(tmp_path / "delta").modules.items():
        term = change.low_rank
        expected = modules[f"base_model.model.{module}"].get_delta_weight("default")
        dense = term.scale * (term.b.double() @ term.a.double())
        torch.testing.assert_close(dense.T, expected, rtol=1e-12, atol=1e-14)


def test_every_key_that_peft_writes_has_a_rule() -> None:
    written = LoraConfig(target_modules=["q_proj"]).to_dict().keys()
    assert written - LORA_KEYS.known == set()
    assert LORA_KEYS.known - written == {"runtime_config"}
