"""Reads the canonical file of a delta without copying it."""

import mmap
from collections.abc import Mapping
from pathlib import Path

import torch

from polyad.adapters_store.delta.delta import Delta
from polyad.adapters_store.delta.header import DTYPES, Header, TensorEntry, parse_header
from polyad.adapters_store.delta.low_rank import LowRank
from polyad.adapters_store.delta.module_delta import ModuleDelta
from polyad.adapters_store.delta.sparse import Sparse
from polyad.adapters_store.delta.strict_json import strict_json
from polyad.adapters_store.delta.writer import (
    FORMAT,
    FORMAT_KEY,
    LOW_RANK_FORMAT,
    LOW_RANK_PARTS,
    SCALES_KEY,
    SHAPES_KEY,
    SPARSE_PARTS,
    TENSOR_PARTS,
)
from polyad.adapters_store.errors import CorruptBlob, InvalidInput

_MAX_HEADER_BYTES = 64 * 2**20
_MAX_TENSORS = 400_000


def read_delta(path: Path) -> Delta:
    """Map the file at `path`; its values are read from disk on first use. CorruptBlob if it is no delta file."""
    try:
        with open(path, "rb") as file:
            header = parse_header(path.name, file, _MAX_HEADER_BYTES, _MAX_TENSORS, (f".{SPARSE_PARTS[0]}",))
            parts = _by_module(header)
            scales, shapes = _numbers(header, parts)
            # copy-on-write: torch refuses read-only memory, and the file must never change
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return Delta({module: _change(module, parts[module], mapped, scales, shapes) for module in parts})
    except (InvalidInput, KeyError, UnicodeError) as error:
        raise CorruptBlob(f"{path.name}: not a delta file: {error}") from error


def _by_module(header: Header) -> dict[str, dict[str, TensorEntry]]:
    modules: dict[str, dict[str, TensorEntry]] = {}
    for name, entry in header.tensors.items():
        part = next((part for part in TENSOR_PARTS if name.endswith(f".{part}")), None)
        if part is None:
            raise InvalidInput(name[:200], "a tensor of this name", f"<module>. and one of {', '.join(TENSOR_PARTS)}")
        modules.setdefault(name.removesuffix(f".{part}"), {})[part] = entry
    for module, parts in modules.items():
        for pair in (LOW_RANK_PARTS, SPARSE_PARTS):
            if len(parts.keys() & set(pair)) == 1:
                raise InvalidInput(module, sorted(parts), f"{pair[0]} and {pair[1]} together")
    return modules


def _numbers(
    header: Header, modules: Mapping[str, Mapping[str, TensorEntry]]
) -> tuple[dict[str, float], dict[str, tuple[int, int]]]:
    only_low_rank = all(part in LOW_RANK_PARTS for parts in modules.values() for part in parts)
    expected = LOW_RANK_FORMAT if only_low_rank else FORMAT
    if header.metadata.get(FORMAT_KEY) != expected:
        raise InvalidInput(FORMAT_KEY, header.metadata.get(FORMAT_KEY), expected)
    scales = strict_json(SCALES_KEY, header.metadata[SCALES_KEY].encode())
    shapes = {} if only_low_rank else strict_json(SHAPES_KEY, header.metadata[SHAPES_KEY].encode())
    for key, numbers, part in ((SCALES_KEY, scales, LOW_RANK_PARTS[0]), (SHAPES_KEY, shapes, SPARSE_PARTS[0])):
        having = {module for module, parts in modules.items() if part in parts}
        if having != numbers.keys():
            raise InvalidInput(key, sorted(having ^ numbers.keys()), f"exactly the modules with {part}")
    return (
        {module: _number(module, scale) for module, scale in scales.items()},
        {module: _shape(module, shape) for module, shape in shapes.items()},
    )


def _change(
    module: str,
    parts: Mapping[str, TensorEntry],
    mapped: mmap.mmap,
    scales: Mapping[str, float],
    shapes: Mapping[str, tuple[int, int]],
) -> ModuleDelta:
    tensors = {part: _tensor(entry, mapped) for part, entry in parts.items()}
    low_rank = sparse = None
    if module in scales:
        low_rank = LowRank(tensors["low_rank.a"], tensors["low_rank.b"], scales[module])
    if module in shapes:
        sparse = Sparse(tensors["sparse.indices"], tensors["sparse.values"], shapes[module])
    vectors = {part: tensors.get(part) for part in ("row_scale", "column_scale", "bias")}
    return ModuleDelta(low_rank=low_rank, sparse=sparse, **vectors)


def _tensor(entry: TensorEntry, mapped: mmap.mmap) -> torch.Tensor:
    dtype = DTYPES[entry.dtype]
    if entry.size == 0:
        return torch.empty(entry.shape, dtype=dtype)
    if entry.start % dtype.itemsize:
        # only where 16-bit tensors of odd length precede a wider one: torch wants aligned elements
        aligned = bytearray(mapped[entry.start : entry.start + entry.size])
        return torch.frombuffer(aligned, dtype=dtype).view(entry.shape)
    count = entry.size // dtype.itemsize
    return torch.frombuffer(mapped, dtype=dtype, count=count, offset=entry.start).view(entry.shape)


def _number(module: str, value: object) -> float:
    if type(value) is not float:
        raise InvalidInput(f"{SCALES_KEY}: {module}", value, "a number with a fraction")
    return value


def _shape(module: str, value: object) -> tuple[int, int]:
    if isinstance(value, list) and len(value) == 2 and all(type(item) is int for item in value):
        return value[0], value[1]
    raise InvalidInput(f"{SHAPES_KEY}: {module}", value, "a list of two integers")
