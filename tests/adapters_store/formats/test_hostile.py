"""Whatever is done to an adapter's files, of any kind, they are admitted whole or refused with the product's errors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import AdaLoraConfig, IA3Config, LoraConfig, ShiraConfig, VeraConfig

from polyad.adapters_store.delta import read_delta
from polyad.adapters_store.errors import InvalidInput
from tests.fixtures.fuzzing import fuzz
from tests.fixtures.tiny import Adapter, Tensors, Tiny

Q0, O0 = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.o_proj"
TARGETS = ["q_proj", "down_proj"]

PEFT = {
    "lora": LoraConfig(r=2, target_modules=TARGETS, bias="all", lora_bias=True),
    "dora": LoraConfig(r=2, target_modules=TARGETS, use_dora=True),
    "adalora": AdaLoraConfig(init_r=2, target_r=1, total_step=9, target_modules=TARGETS),
    "vera": VeraConfig(r=2, target_modules=TARGETS),
    "ia3": IA3Config(target_modules=TARGETS, feedforward_modules=["down_proj"]),
    "shira": ShiraConfig(r=1, target_modules=TARGETS),
}
SFT: Tensors = {
    f"{Q0}.sft_delta.values": torch.ones(3),
    f"{Q0}.sft_delta.indices": torch.tensor([9, 1, 4], dtype=torch.int32),
}
S2FT: Tensors = {f"{Q0}.s2ft_rows": torch.ones(2, 16), f"{Q0}.s2ft_indices": torch.tensor([9, 1])}
LOFIT = {"output_modules": "o_proj", "num_heads": 4, "head_dim": 4}
OWN: dict[str, tuple[dict[str, Any], Tensors]] = {
    "ssf": ({}, {f"{Q0}.ssf_scale": torch.ones(16), f"{Q0}.ssf_shift": torch.ones(16)}),
    "lofit": (LOFIT, {f"{O0}.lofit_v": torch.ones(4, 4), f"{O0}.lofit_a": torch.ones(4, 4)}),
    "bitfit": ({}, {f"{Q0}.bias": torch.ones(16)}),
    "sft": ({"density": 0.1, "target_modules": ["q_proj"]}, SFT),
    "s2ft": ({}, S2FT),
    "loldu": (
        {"r": 2, "lora_alpha": 2, "init_method": "lu"},
        {f"{Q0}.loldu_z": torch.ones(2), f"{Q0}.loldu_s": torch.ones(1)},
    ),
}


@pytest.fixture(params=[*PEFT, *OWN])
def adapter(request: pytest.FixtureRequest, biased: Tiny, tmp_path: Path) -> Adapter:
    if request.param in PEFT:
        made = biased.trained(PEFT[request.param], tmp_path)
    else:
        config, tensors = OWN[request.param]
        made = biased.written(tmp_path, {"peft_type": request.param.upper(), **config}, tensors)
    assert made.admit().kind == request.param
    made.destination.unlink()
    return made


def admitted_or_refused(adapter: Adapter) -> None:
    try:
        adapter.admit()
    except InvalidInput as refusal:
        assert refusal.field
        assert adapter.left_behind() == []
    else:
        for change in read_delta(adapter.destination).modules.values():
            assert all(not t.is_floating_point() or t.isfinite().all() for t in change.tensors.values())
        adapter.destination.unlink()


@fuzz(25)
@given(data=st.data())
def test_mutated_files(adapter: Adapter, data: st.DataObject) -> None:
    weights, config = adapter.weights.read_bytes(), adapter.config.read_bytes()
    target, content = data.draw(st.sampled_from([(adapter.weights, weights), (adapter.config, config)]))
    at = data.draw(st.integers(0, len(content) - 1))
    piece = data.draw(st.binary(max_size=4) | st.sampled_from([b'"', b"{}", b"null", b"-1", b"9" * 30, b"[]"]))
    target.write_bytes(content[:at] + piece + content[at + data.draw(st.integers(0, 4)) :])
    try:
        admitted_or_refused(adapter)
    finally:
        adapter.weights.write_bytes(weights)
        adapter.config.write_bytes(config)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(["q_proj", "(", "", "all"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([Q0, "q_proj", "["]), inner, max_size=2)
    ),
    max_leaves=5,
)


@fuzz(25)
@given(data=st.data())
def test_any_value_of_any_key(adapter: Adapter, data: st.DataObject) -> None:
    config = json.loads(adapter.config.read_text())
    key = data.draw(st.sampled_from(sorted(config)) | st.text(max_size=6))
    try:
        adapter.config.write_text(json.dumps(config | {key: data.draw(VALUES)}))
        admitted_or_refused(adapter)
    finally:
        adapter.config.write_text(json.dumps(config))


CHANGES: list[Callable[[torch.Tensor], torch.Tensor]] = [
    lambda tensor: tensor[None].clone(),
    lambda tensor: tensor.flatten(),
    lambda tensor: tensor[:0].clone(),
    lambda tensor: torch.cat([tensor, tensor]),
    lambda tensor: tensor.flatten()[0].clone(),
    lambda tensor: tensor.to(torch.int32),
    lambda tensor: tensor.to(torch.int64),
    lambda tensor: tensor.to(torch.float16),
    lambda tensor: tensor.to(torch.float64),
    lambda tensor: -tensor,
    lambda tensor: tensor * 1000,
    lambda tensor: torch.zeros_like(tensor),
    lambda tensor: tensor.float() / 0,
]


@fuzz(25)
@given(data=st.data())
def test_any_change_of_any_tensor(adapter: Adapter, data: st.DataObject) -> None:
    weights = adapter.weights.read_bytes()

    def change(tensors: Tensors) -> None:
        name = data.draw(st.sampled_from(sorted(tensors)))
        what = data.draw(st.sampled_from([*range(len(CHANGES)), "drop", "rename"]))
        tensor = tensors[name] if isinstance(what, int) else tensors.pop(name)
        if isinstance(what, int):
            tensors[name] = CHANGES[what](tensor)
        elif what == "rename":
            tensors[name.replace("layers.0", data.draw(st.sampled_from(["layers.1", "layers.9", ""])))] = tensor

    try:
        adapter.change_tensors(change)
        admitted_or_refused(adapter)
    finally:
        adapter.weights.write_bytes(weights)
