"""Writes the canonical file of a delta: the same delta gives the same bytes, so the same digest."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import torch

from polyad.adapters_store.atomic_file import atomic_file
from polyad.adapters_store.delta.delta import Delta
from polyad.adapters_store.delta.header import DTYPES, LENGTH_BYTES
from polyad.adapters_store.errors import InvalidInput

FORMAT = "1"
FORMAT_KEY = "polyad.delta"
SCALES_KEY = "polyad.scales"
FACTOR_SUFFIXES = {"a": ".low_rank.a", "b": ".low_rank.b"}

_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class _Digest(Protocol):
    def update(self, data: memoryview | bytes, /) -> None: ...


@dataclass(frozen=True)
class FactorSource:
    """A tensor that is copied into the file piece by piece; `pieces` yields exactly its bytes, in order."""

    dtype: str
    shape: tuple[int, int]
    pieces: Callable[[], Iterable[memoryview]]

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1] * DTYPES[self.dtype].itemsize


def write_delta(delta: Delta, path: Path) -> str:
    """Write `delta` to `path`, whole or not at all; return the digest, the SHA-256 of the file in hexadecimal."""
    low_rank = {name: change.low_rank for name, change in delta.modules.items() if change.low_rank}
    factors = {
        module + FACTOR_SUFFIXES[side]: _tensor_source(module, tensor)
        for module, term in low_rank.items()
        for side, tensor in (("a", term.a), ("b", term.b))
    }
    return write_factors(factors, {module: term.scale for module, term in low_rank.items()}, path)


def write_factors(factors: Mapping[str, FactorSource], scales: Mapping[str, float], path: Path) -> str:
    """The same for tensors that need not be in memory: names as in the file, and the scale of each module."""
    with atomic_file(path) as file:
        digest = hashlib.sha256()
        _write(file, digest, _header(factors, scales))
        for name in sorted(factors):
            written = 0
            for piece in factors[name].pieces():
                _write(file, digest, piece)
                written += len(piece)
            if written != factors[name].size:
                raise InvalidInput(name, f"{written} bytes", f"{factors[name].size} bytes")
    return digest.hexdigest()


def _write(file: BinaryIO, digest: _Digest, data: memoryview | bytes) -> None:
    file.write(data)
    digest.update(data)


def _header(factors: Mapping[str, FactorSource], scales: Mapping[str, float]) -> bytes:
    metadata = {FORMAT_KEY: FORMAT, SCALES_KEY: _canonical({module: float(scale) for module, scale in scales.items()})}
    entries: dict[str, object] = {"__metadata__": metadata}
    position = 0
    for name in sorted(factors):
        factor = factors[name]
        entries[name] = {
            "dtype": factor.dtype,
            "shape": list(factor.shape),
            "data_offsets": [position, position + factor.size],
        }
        position += factor.size
    content = _canonical(entries).encode()
    content += b" " * (-len(content) % 8)
    return len(content).to_bytes(LENGTH_BYTES, "little") + content


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _tensor_source(module: str, tensor: torch.Tensor) -> FactorSource:
    if tensor.dtype not in _DTYPE_NAMES:
        raise InvalidInput(module, str(tensor.dtype), ", ".join(_DTYPE_NAMES[dtype] for dtype in _DTYPE_NAMES))

    def pieces() -> Iterable[memoryview]:
        plain = tensor.detach().to("cpu").contiguous().flatten()
        return [plain.view(torch.uint8).numpy().data]

    return FactorSource(_DTYPE_NAMES[tensor.dtype], (tensor.shape[0], tensor.shape[1]), pieces)
