"""The header of a safetensors file, parsed with bounds before anything is allocated."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

import torch

from polyad.adapters_store.delta.strict_json import strict_json
from polyad.adapters_store.errors import InvalidAdapter, TooLarge

# What values may be, and what indices may be: never the one in the other's place.
FLOATS: Mapping[str, torch.dtype] = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
INTEGERS: Mapping[str, torch.dtype] = {"I32": torch.int32, "I64": torch.int64}
DTYPES: Mapping[str, torch.dtype] = {**FLOATS, **INTEGERS}

LENGTH_BYTES = 8
_MAX_DIMENSIONS = 8
_MAX_DIMENSION = 2**31 - 1


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file; `start` is the absolute position of its first byte."""

    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Header:
    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]


def parse_header(
    field: str, file: BinaryIO, max_header_bytes: int, max_tensors: int, index_suffixes: tuple[str, ...] = ()
) -> Header:
    """Read and check the header; afterwards every entry lies inside the file, and together they fill it.

    Tensors whose names end with one of `index_suffixes` hold integers, all others floats. Raises InvalidAdapter, or
    TooLarge for a header or a number of tensors over its limit.
    """
    content, file_size = _read(field, file, max_header_bytes)
    if not content.startswith(b"{"):
        raise InvalidAdapter(f"{field}: header", content[:40], "a JSON object that begins with '{'")
    entries = strict_json(f"{field}: header", content)
    metadata = _metadata(field, entries.pop("__metadata__", {}))
    if len(entries) > max_tensors:
        raise TooLarge(f"{field}: tensors", len(entries), f"at most {max_tensors}")
    data_start = LENGTH_BYTES + len(content)
    tensors = {
        name: _entry(field, name, value, data_start, INTEGERS if name.endswith(index_suffixes) else FLOATS)
        for name, value in entries.items()
    }
    _check_contiguous(field, tensors, data_start, file_size)
    return Header(tensors, metadata)


def _read(field: str, file: BinaryIO, max_header_bytes: int) -> tuple[bytes, int]:
    """The header, and the size of the whole file."""
    file_size = os.fstat(file.fileno()).st_size
    file.seek(0)
    prefix = file.read(LENGTH_BYTES)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < LENGTH_BYTES or length > file_size - LENGTH_BYTES:
        raise InvalidAdapter(
            field, f"{file_size} bytes, header length {length}", "a safetensors file whose header lies inside it"
        )
    if length > max_header_bytes:
        raise TooLarge(f"{field}: header", length, f"at most {max_header_bytes} bytes")
    content = file.read(length)
    if len(content) != length:
        raise InvalidAdapter(field, f"{len(content)} bytes of header", f"{length} bytes, as the file announces")
    return content, file_size


def _metadata(field: str, value: object) -> Mapping[str, str]:
    if isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
        return value
    raise InvalidAdapter(f"{field}: __metadata__", value, "an object of strings")


def _entry(field: str, name: str, value: object, data_start: int, dtypes: Mapping[str, torch.dtype]) -> TensorEntry:
    where = f"{field}: {name[:200]}"
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise InvalidAdapter(where, value, "an object with dtype, shape and data_offsets")
    dtype = value["dtype"]
    if not isinstance(dtype, str) or dtype not in dtypes:
        raise InvalidAdapter(f"{where}: dtype", dtype, ", ".join(dtypes))
    shape = _integers(f"{where}: shape", value["shape"], _MAX_DIMENSION)
    if len(shape) > _MAX_DIMENSIONS:
        raise InvalidAdapter(f"{where}: shape", shape, f"at most {_MAX_DIMENSIONS} dimensions")
    offsets = _integers(f"{where}: data_offsets", value["data_offsets"], 2**63 - 1)
    if len(offsets) != 2:
        raise InvalidAdapter(f"{where}: data_offsets", offsets, "[begin, end]")
    entry = TensorEntry(dtype, shape, data_start + offsets[0])
    if offsets[1] - offsets[0] != entry.size:
        raise InvalidAdapter(f"{where}: data_offsets", offsets, f"{entry.size} bytes for {dtype} {list(shape)}")
    return entry


def _integers(field: str, value: object, largest: int) -> tuple[int, ...]:
    # bool is an int to isinstance, hence the exact type
    if isinstance(value, list) and all(type(item) is int and 0 <= item <= largest for item in value):
        return tuple(value)
    raise InvalidAdapter(field, value, f"a list of integers from 0 to {largest}")


def _check_contiguous(field: str, tensors: Mapping[str, TensorEntry], position: int, file_size: int) -> None:
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].size)):
        if entry.start != position:
            raise InvalidAdapter(
                f"{field}: {name[:200]}: data_offsets",
                f"data at byte {entry.start}",
                f"byte {position}: tensors follow each other without holes or overlap",
            )
        position += entry.size
    if position != file_size:
        raise InvalidAdapter(field, f"{file_size} bytes", f"{position} bytes, where the last tensor ends")
