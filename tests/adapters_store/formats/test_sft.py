from pathlib import Path
from typing import Any

import pytest
import torch

from polyad.adapters_store.errors import InvalidAdapter
from tests.fixtures.tiny import Adapter, Tensors, Tiny

Q0 = "model.layers.0.self_attn.q_proj"
K1 = "model.layers.1.self_attn.k_proj"
DOWN1 = "model.layers.1.mlp.down_proj"
VALUES, INDICES = (f"base_model.model.{Q0}.sft_delta.{part}" for part in ("values", "indices"))
# what the authors' fork writes
CONFIG = {
    "peft_type": "SFT",
    "task_type": "CAUSAL_LM",
    "auto_mapping": None,
    "base_model_name_or_path": "org/model",
    "revision": None,
    "inference_mode": True,
    "density": 0.01,
    "num_tunable_weights": None,
    "num_deltas": {Q0: 20, K1: 20},
    "selection_algorithm": "rigl",
    "reselection_steps": 20,
    "selection_accumulation_steps": 5,
    "reselection_rate_policy": "linear",
    "initial_reselection_rate": 0.2,
    "candidate_reselection_steps": None,
    "candidate_reselection_proportion": 0.2,
    "dtype": "float32",
    "target_modules": ["q_proj", "k_proj"],
    "modules_to_save": None,
}


def written(tiny: Tiny, folder: Path, index_dtype: torch.dtype = torch.int32, **more: torch.Tensor) -> Adapter:
    generator = torch.Generator().manual_seed(4)
    tensors: Tensors = {}
    for module in (Q0, K1):
        out_features, in_features = tiny.base.linears[module]
        indices = torch.randperm(out_features * in_features, generator=generator)[:20]
        tensors[f"{module}.sft_delta.indices"] = indices.to(index_dtype)
        tensors[f"{module}.sft_delta.values"] = torch.randn(20, generator=generator)
    return tiny.written(folder, CONFIG, tensors | more)


@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
def test_values_are_added_where_the_indices_say(tiny: Tiny, tmp_path: Path, index_dtype: torch.dtype) -> None:
    adapter = written(tiny, tmp_path, index_dtype)
    delta = adapter.delta()
    admitted = adapter.admit()
    assert (admitted.kind, admitted.rank, admitted.declared_base) == ("sft", 0, "org/model")
    tensors = adapter.tensors()
    for module in (Q0, K1):
        weight = tiny.weight(module).clone()
        flat = weight.view(-1)
        for index, value in zip(
            tensors[f"{module}.sft_delta.indices"].tolist(), tensors[f"{module}.sft_delta.values"], strict=True
        ):
            flat[index] += value.double()
        x = torch.randn(3, weight.shape[1], dtype=torch.float64)
        torch.testing.assert_close(tiny.changed(module, delta)(x), x @ weight.t(), rtol=1e-12, atol=1e-12)
        sparse = delta.modules[module].sparse
        assert sparse is not None and sparse.indices.dtype == torch.int32


def test_biases_beside_it(biased: Tiny, tmp_path: Path) -> None:
    more = {f"{module}.bias": torch.randn(16) for module in (Q0, DOWN1)}
    adapter = written(biased, tmp_path, **more)
    delta = adapter.delta()
    assert delta.modules.keys() == {Q0, K1, DOWN1}
    for module in (Q0, DOWN1):
        zero = torch.zeros(1, biased.base.linears[module][1], dtype=torch.float64)
        expected = more[f"{module}.bias"].double()[None]
        torch.testing.assert_close(biased.changed(module, delta)(zero), expected, rtol=1e-6, atol=1e-6)
    assert delta.modules[K1].bias is None and delta.modules[DOWN1].sparse is None


def test_no_values_are_no_change(tiny: Tiny, tmp_path: Path) -> None:
    adapter = written(tiny, tmp_path)
    adapter.change_tensors(
        lambda tensors: tensors.update({VALUES: torch.empty(0), INDICES: torch.empty(0, dtype=torch.int32)})
    )
    sparse = adapter.delta().modules[Q0].sparse
    assert sparse is not None and sparse.count == 0


def put(at: int, index: int) -> Any:
    def change(tensors: Tensors) -> None:
        tensors[INDICES][at] = index

    return change


def twice(tensors: Tensors) -> None:
    tensors[INDICES][3] = tensors[INDICES][11]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (twice, "sft_delta.indices: got .*, allowed: each index once"),
        (put(5, 256), r"sft_delta.indices: got \[.*, 256\], allowed: indices from 0 to 255"),
        (put(5, -1), r"sft_delta.indices: got \[-1, .*\], allowed: indices from 0 to 255"),
        (lambda tensors: tensors.pop(VALUES), f"no sft_delta.values for {Q0}"),
        (lambda tensors: tensors.pop(INDICES), f"no sft_delta.indices for {Q0}"),
        (lambda tensors: tensors.update({INDICES: tensors[INDICES][1:]}), "one index for every value"),
        (lambda tensors: tensors.update({VALUES: torch.ones(20, 1)}), "one index for every value"),
        (lambda tensors: tensors.update({VALUES: torch.ones(())}), "one index for every value"),
        (lambda tensors: tensors.update({INDICES: tensors[INDICES].float()}), "dtype: got 'F32', allowed: I32, I64"),
        (lambda tensors: tensors.update({VALUES: tensors[VALUES].long()}), "dtype: got 'I64', allowed: F32"),
        (lambda tensors: tensors[VALUES].fill_(float("nan")), "NaN"),
        (lambda tensors: tensors.update({f"base_model.model.{Q0}.bias": torch.ones(3)}), r"shape: got \[3\]"),
        (
            lambda tensors: tensors.update({"base_model.model.model.embed_tokens.sft_delta.values": torch.ones(3)}),
            "linear layers of base model 'tiny' other than the output head",
        ),
    ],
)
def test_refused_tensors(tiny: Tiny, tmp_path: Path, change: Any, message: str) -> None:
    adapter = written(tiny, tmp_path)
    adapter.change_tensors(change)
    with pytest.raises(InvalidAdapter, match=message):
        adapter.admit()
    assert adapter.left_behind() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"modules_to_save": ["score"]}, "modules trained in full"), ({"brand_new": 1}, "brand_new: got 1")],
)
def test_refused_config(tiny: Tiny, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    adapter = written(tiny, tmp_path)
    adapter.change_config(**changes)
    with pytest.raises(InvalidAdapter, match=message):
        adapter.admit()
