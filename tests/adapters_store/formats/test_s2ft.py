from pathlib import Path
from typing import Any

import pytest
import torch

from polyad.adapters_store.errors import InvalidAdapter
from tests.fixtures.tiny import Adapter, Tensors, Tiny

UP0, DOWN1 = "model.layers.0.mlp.up_proj", "model.layers.1.mlp.down_proj"
ROWS, ROW_INDICES = f"base_model.model.{UP0}.s2ft_rows", f"base_model.model.{UP0}.s2ft_indices"
COLUMNS = f"base_model.model.{DOWN1}.s2ft_columns"


def written(tiny: Tiny, folder: Path, dtype: torch.dtype = torch.float32) -> Adapter:
    generator = torch.Generator().manual_seed(8)
    tensors = {
        f"{UP0}.s2ft_rows": torch.randn(5, 16, generator=generator).to(dtype),
        f"{UP0}.s2ft_indices": torch.tensor([7, 0, 23, 11, 4]),
        f"{DOWN1}.s2ft_columns": torch.randn(16, 3, generator=generator).to(dtype),
        f"{DOWN1}.s2ft_indices": torch.tensor([23, 2, 9], dtype=torch.int32),
    }
    return tiny.written(folder, {"peft_type": "S2FT"}, tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_and_columns_are_added_at_their_indices(tiny: Tiny, tmp_path: Path, dtype: torch.dtype) -> None:
    adapter = written(tiny, tmp_path, dtype)
    delta = adapter.delta()
    admitted = adapter.admit()
    assert (admitted.kind, admitted.rank) == ("s2ft", 5)
    tensors = adapter.tensors()
    rows, columns = tiny.weight(UP0).clone(), tiny.weight(DOWN1).clone()
    rows[tensors[f"{UP0}.s2ft_indices"].long()] += tensors[f"{UP0}.s2ft_rows"].double()
    columns[:, tensors[f"{DOWN1}.s2ft_indices"].long()] += tensors[f"{DOWN1}.s2ft_columns"].double()
    for module, weight in ((UP0, rows), (DOWN1, columns)):
        x = torch.randn(3, weight.shape[1], dtype=torch.float64)
        torch.testing.assert_close(tiny.changed(module, delta)(x), x @ weight.t(), rtol=1e-12, atol=1e-12)
        assert delta.modules[module].low_rank is not None
        assert delta.modules[module].low_rank.a.dtype == dtype  # type: ignore[union-attr]


def put(index: int) -> Any:
    def change(tensors: Tensors) -> None:
        tensors[ROW_INDICES][1] = index

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(24), r"s2ft_indices: got \[4, 24\], allowed: indices from 0 to 23"),
        (put(-1), r"s2ft_indices: got \[-1, 23\]"),
        (put(7), "each index once"),
        (lambda tensors: tensors.pop(ROW_INDICES), f"no s2ft_indices for {UP0}"),
        (lambda tensors: tensors.pop(ROWS), "either s2ft_rows or s2ft_columns"),
        (
            lambda tensors: tensors.update({f"base_model.model.{UP0}.s2ft_columns": torch.ones(24, 5)}),
            "either s2ft_rows or s2ft_columns",
        ),
        (lambda tensors: tensors.update({ROWS: torch.ones(4, 16)}), r"shape: got \[4, 16\], allowed: \[5, 16\]"),
        (lambda tensors: tensors.update({COLUMNS: torch.ones(3, 16)}), r"shape: got \[3, 16\], allowed: \[16, 3\]"),
        (lambda tensors: tensors.update({ROW_INDICES: torch.ones(5, 1).long()}), "one dimension"),
        (lambda tensors: tensors.update({ROW_INDICES: torch.empty(0).long()}), "one index or more"),
        (lambda tensors: tensors.update({ROW_INDICES: torch.ones(5)}), "dtype: got 'F32', allowed: I32, I64"),
        (lambda tensors: tensors.update({ROWS: torch.ones(5, 16).int()}), "dtype: got 'I32', allowed: F32"),
        (lambda tensors: tensors[ROWS].fill_(float("nan")), "NaN"),
    ],
)
def test_refused_tensors(tiny: Tiny, tmp_path: Path, change: Any, message: str) -> None:
    adapter = written(tiny, tmp_path)
    adapter.change_tensors(change)
    with pytest.raises(InvalidAdapter, match=message):
        adapter.admit()
    assert adapter.left_behind() == []


def test_the_number_of_rows_is_a_rank_and_limited(tiny: Tiny, tmp_path: Path) -> None:
    adapter = written(tiny, tmp_path)
    adapter.change_tensors(lambda tensors: tensors.update({ROWS: torch.ones(17, 16), ROW_INDICES: torch.arange(17)}))
    with pytest.raises(InvalidAdapter, match=f"{UP0}: rank: got 17, allowed: ranks from 1 to 16"):
        adapter.admit()
