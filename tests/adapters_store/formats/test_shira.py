from pathlib import Path
from typing import Any

import pytest
import torch
from peft import ShiraConfig

from polyad.adapters_store.admission import Limits
from polyad.adapters_store.errors import InvalidAdapter, TooLarge
from polyad.adapters_store.formats.shira import SHIRA_KEYS
from tests.fixtures.tiny import Adapter, Tensors, Tiny

Q0 = "base_model.model.model.layers.0.self_attn.q_proj"
VALUES, INDICES = f"{Q0}.shira_weight", f"{Q0}.shira_indices"


@pytest.fixture
def adapter(tiny: Tiny, tmp_path: Path) -> Adapter:
    return tiny.trained(ShiraConfig(r=2, target_modules=["q_proj", "k_proj"], random_seed=3), tmp_path)


def test_as_in_peft(tiny: Tiny, adapter: Adapter) -> None:
    delta = tiny.assert_as_in_peft(adapter, rtol=1e-12)
    admitted = adapter.admit()
    assert (admitted.kind, admitted.rank) == ("shira", 0)
    assert all(change.sparse is not None for change in delta.modules.values())


def shuffled(tensors: Tensors) -> None:
    order = torch.randperm(len(tensors[VALUES]), generator=torch.Generator().manual_seed(1))
    tensors[VALUES], tensors[INDICES] = tensors[VALUES][order], tensors[INDICES][:, order]


def test_order_does_not_matter(adapter: Adapter) -> None:
    digest = adapter.admit().digest
    adapter.change_tensors(shuffled)
    assert adapter.admit().digest == digest


def place(column: int, row_and_column: list[int]) -> Any:
    def change(tensors: Tensors) -> None:
        tensors[INDICES][:, column] = torch.tensor(row_and_column)

    return change


def twice(tensors: Tensors) -> None:
    tensors[INDICES][:, 1] = tensors[INDICES][:, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (twice, "shira_indices: got .*allowed: each index once"),
        (place(0, [16, 0]), r"shira_indices: got \[.*, 16\], allowed: 0 to 15"),
        (place(0, [0, 16]), r"shira_indices: got \[.*, 16\], allowed: 0 to 15"),
        (place(3, [-1, 0]), r"shira_indices: got \[-1, .*\], allowed: 0 to 15"),
        (lambda tensors: tensors.pop(INDICES), "no shira_indices for model.layers.0.self_attn.q_proj"),
        (lambda tensors: tensors.pop(VALUES), "no shira_weight for model.layers.0.self_attn.q_proj"),
        (
            lambda tensors: tensors.update({INDICES: tensors[INDICES][:, 1:]}),
            r"shape: got \[2, 63\], allowed: \[2, 64\]",
        ),
        (lambda tensors: tensors.update({INDICES: tensors[INDICES].float()}), "dtype: got 'F32', allowed: I32, I64"),
        (lambda tensors: tensors.update({VALUES: tensors[VALUES].int()}), "dtype: got 'I32', allowed: F32"),
        (lambda tensors: tensors.update({VALUES: tensors[VALUES].view(32, 2)}), "one dimension"),
        (lambda tensors: tensors[VALUES].fill_(float("nan")), "NaN"),
    ],
)
def test_refused_tensors(adapter: Adapter, change: Any, message: str) -> None:
    adapter.change_tensors(change)
    with pytest.raises(InvalidAdapter, match=message):
        adapter.admit()
    assert adapter.left_behind() == []


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_sparse_values": 63}, "layers.0.self_attn.q_proj: sparse values: got 64, allowed: at most 63"),
        (
            {"max_sparse_values_in_all": 3 * (64 + 48) - 1},
            "sparse values of all modules: got 336, allowed: at most 335",
        ),
    ],
)
def test_values_are_limited(adapter: Adapter, limits: dict[str, int], message: str) -> None:
    adapter.limits = Limits(max_rank=1, **{name: value + 1 for name, value in limits.items()})
    adapter.admit()
    adapter.limits = Limits(max_rank=1, **limits)
    with pytest.raises(TooLarge, match=message):
        adapter.admit()


def test_keys(adapter: Adapter) -> None:
    assert ShiraConfig().to_dict().keys() - SHIRA_KEYS.known == set()
    adapter.change_config(brand_new=1)
    with pytest.raises(InvalidAdapter, match="brand_new: got 1"):
        adapter.admit()


def test_conv1d_layers_are_refused(gpt2: Tiny, adapter: Adapter) -> None:
    adapter.base = gpt2.base
    adapter.change_config(target_modules=["c_attn"])
    adapter.change_tensors(
        lambda tensors: (
            tensors.clear()
            or tensors.update(
                {
                    "base_model.model.transformer.h.0.attn.c_attn.shira_weight": torch.ones(1),
                    "base_model.model.transformer.h.0.attn.c_attn.shira_indices": torch.zeros(2, 1, dtype=torch.int32),
                }
            )
        )
    )
    with pytest.raises(InvalidAdapter, match="c_attn', allowed: linear layers that PEFT has SHiRA for"):
        adapter.admit()
