"""S2FT, structured sparse fine-tuning (Yang et al. 2024, arXiv:2412.06289): some rows, or some columns, of W change.

    rows:     dW = onehot(indices)ᵀ values        values of shape [n, in]
    columns:  dW = values onehot(indices)         values of shape [out, n]

A format of polyad's own: `peft_type` S2FT, and for each module `base_model.model.<module>.s2ft_indices`, n integers,
and `.s2ft_rows` or `.s2ft_columns`. The values are what is added to W. The authors train against a permuted model; the
indices are those of the unpermuted one. The delta is a low-rank term of rank n.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.delta import LowRank, ModuleDelta, ModuleSource
from polyad.adapters_store.errors import InvalidAdapter
from polyad.adapters_store.formats.conversion import Form, converted
from polyad.adapters_store.formats.own_kind import OWN_KEYS, own_names
from polyad.adapters_store.formats.tensor_file import TensorFile
from polyad.adapters_store.formats.tensor_names import check_parts

_INDICES, _ROWS, _COLUMNS = "s2ft_indices", "s2ft_rows", "s2ft_columns"


@dataclass(frozen=True)
class S2ft:
    kind: ClassVar[str] = "s2ft"
    index_suffixes: ClassVar[tuple[str, ...]] = (f".{_INDICES}",)
    needs_initial: ClassVar[bool] = False

    @classmethod
    def parse(cls, config: Mapping[str, object]) -> "S2ft":
        OWN_KEYS.check(config)
        return cls()

    def read(self, file: TensorFile, base: BaseModel, initial: TensorFile | None) -> dict[str, ModuleSource]:
        names = own_names(file, (_INDICES, _ROWS, _COLUMNS), base)
        return {module: _source(file, names[module], module, base.linears[module]) for module in sorted(names)}


def _source(file: TensorFile, parts: Mapping[str, str], module: str, shape: tuple[int, int]) -> ModuleSource:
    check_parts(file, {module: dict(parts)}, module, (_INDICES,))
    if (_ROWS in parts) == (_COLUMNS in parts):
        raise InvalidAdapter(file.field, f"{sorted(parts)} for {module}", f"either {_ROWS} or {_COLUMNS}")
    by_rows = _ROWS in parts
    values, indices = parts[_ROWS if by_rows else _COLUMNS], parts[_INDICES]
    count = next(iter(file.tensors[indices].shape), 0)
    if not count:
        raise InvalidAdapter(f"{file.field}.{indices}: shape", list(file.tensors[indices].shape), "one index or more")
    file.check_shape(indices, (count,), "one dimension")
    expected = (count, shape[1]) if by_rows else (shape[0], count)
    dtype = file.check_shape(values, expected, f"{count} indices, and the shape of {module}").dtype
    forms: dict[str, Form] = {"low_rank.a": (dtype, (count, shape[1])), "low_rank.b": (dtype, (shape[0], count))}

    def compute() -> ModuleDelta:
        places = file.tensor(indices).long()
        _check_places(f"{file.field}.{indices}", places, shape[0 if by_rows else 1])
        return ModuleDelta(low_rank=s2ft_term(file.tensor(values), places, shape, by_rows))

    return ModuleSource(tensors=converted(module, forms, compute), scale=1.0)


def s2ft_term(values: torch.Tensor, places: torch.Tensor, shape: tuple[int, int], by_rows: bool) -> LowRank:
    """The values as one factor, ones at their places as the other: exact in every dtype."""
    one_hot = torch.zeros(len(places), shape[0 if by_rows else 1], dtype=values.dtype)
    one_hot[torch.arange(len(places)), places] = 1
    return LowRank(values, one_hot.t(), 1.0) if by_rows else LowRank(one_hot, values, 1.0)


def _check_places(field: str, places: torch.Tensor, end: int) -> None:
    if not 0 <= int(places.min()) <= int(places.max()) < end:
        raise InvalidAdapter(field, [int(places.min()), int(places.max())], f"indices from 0 to {end - 1}")
    if len(set(places.tolist())) < len(places):
        raise InvalidAdapter(field, "an index that is there twice", "each index once")
