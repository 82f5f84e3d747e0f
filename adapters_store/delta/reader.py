"""Reads the canonical file of a delta without copying it."""

import mmap
from pathlib import Path

import torch

from polyad.adapters_store.delta.delta import Delta
from polyad.adapters_store.delta.header import DTYPES, Header, TensorEntry, parse_header
from polyad.adapters_store.delta.low_rank import LowRank
from polyad.adapters_store.delta.module_delta import ModuleDelta
from polyad.adapters_store.delta.strict_json import strict_json
from polyad.adapters_store.delta.writer import FACTOR_SUFFIXES, FORMAT, FORMAT_KEY, SCALES_KEY
from polyad.adapters_store.errors import CorruptBlob, InvalidInput

_MAX_HEADER_BYTES = 64 * 2**20
_MAX_TENSORS = 400_000


def read_delta(path: Path) -> Delta:
    """Map the file at `path`; its tensors are read from disk on first use. CorruptBlob if it is no delta file."""
    try:
        with open(path, "rb") as file:
            header = parse_header(path.name, file, _MAX_HEADER_BYTES, _MAX_TENSORS)
            # copy-on-write: torch refuses read-only memory, and the file must never change
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return Delta({name: ModuleDelta(low_rank=term) for name, term in _low_rank(header, mapped).items()})
    except (InvalidInput, KeyError, UnicodeError) as error:
        raise CorruptBlob(f"{path.name}: not a delta file: {error}") from error


def _low_rank(header: Header, mapped: mmap.mmap) -> dict[str, LowRank]:
    if header.metadata.get(FORMAT_KEY) != FORMAT:
        raise InvalidInput(FORMAT_KEY, header.metadata.get(FORMAT_KEY), FORMAT)
    scales = strict_json(SCALES_KEY, header.metadata[SCALES_KEY].encode())
    names = {module + suffix for module in scales for suffix in FACTOR_SUFFIXES.values()}
    if names != header.tensors.keys():
        raise InvalidInput(SCALES_KEY, sorted(names ^ header.tensors.keys()), "exactly the modules of the file")
    return {
        module: LowRank(
            _tensor(header.tensors[module + FACTOR_SUFFIXES["a"]], mapped),
            _tensor(header.tensors[module + FACTOR_SUFFIXES["b"]], mapped),
            _number(module, scale),
        )
        for module, scale in scales.items()
    }


def _tensor(entry: TensorEntry, mapped: mmap.mmap) -> torch.Tensor:
    dtype = DTYPES[entry.dtype]
    if entry.size == 0:
        return torch.empty(entry.shape, dtype=dtype)
    if entry.start % dtype.itemsize:
        # only where 16-bit tensors of odd length precede a 32-bit one: torch wants aligned elements
        aligned = bytearray(mapped[entry.start : entry.start + entry.size])
        return torch.frombuffer(aligned, dtype=dtype).view(entry.shape)
    count = entry.size // dtype.itemsize
    return torch.frombuffer(mapped, dtype=dtype, count=count, offset=entry.start).view(entry.shape)


def _number(module: str, value: object) -> float:
    if type(value) is not float:
        raise InvalidInput(f"{SCALES_KEY}: {module}", value, "a number with a fraction")
    return value
