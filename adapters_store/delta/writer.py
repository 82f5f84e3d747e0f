"""Writes the canonical file of a delta: the same delta gives the same bytes, so the same digest.

A safetensors file with the tensors in the order of their names, `<module>.<part>` with the parts of TENSOR_PARTS. Its
metadata: `polyad.delta`, the format; `polyad.scales`, the scale of each low-rank term; in format 2 also
`polyad.shapes`, (out, in) of each sparse term. A delta of low-rank terms alone is written in format 1.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Protocol

from polyad.adapters_store.atomic_file import atomic_file
from polyad.adapters_store.delta.delta import Delta
from polyad.adapters_store.delta.header import LENGTH_BYTES
from polyad.adapters_store.delta.module_source import ModuleSource, TensorSource
from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.pace import Pace

LOW_RANK_FORMAT = "1"
FORMAT = "2"
FORMAT_KEY = "polyad.delta"
SCALES_KEY = "polyad.scales"
SHAPES_KEY = "polyad.shapes"

LOW_RANK_PARTS = ("low_rank.a", "low_rank.b")
SPARSE_PARTS = ("sparse.indices", "sparse.values")
TENSOR_PARTS = (*LOW_RANK_PARTS, *SPARSE_PARTS, "row_scale", "column_scale", "bias")


class _Digest(Protocol):
    def update(self, data: memoryview | bytes, /) -> None: ...


def write_delta(delta: Delta, path: Path) -> str:
    """Write `delta` to `path`, whole or not at all; return the digest, the SHA-256 of the file in hexadecimal.

    Modules without any term are left out. Raises InvalidInput for a dtype that the file does not know.
    """
    return write_modules(
        {module: ModuleSource.of(module, change) for module, change in delta.modules.items() if change.tensors}, path
    )


def write_modules(modules: Mapping[str, ModuleSource], path: Path, pace: Pace | None = None) -> str:
    """The same for tensors that need not be in memory: they are asked for in the order of their names."""
    tensors = {f"{module}.{part}": tensor for module, one in modules.items() for part, tensor in one.tensors.items()}
    with atomic_file(path) as file:
        digest = hashlib.sha256()
        _write(file, digest, _header(tensors, _metadata(modules)))
        for name in sorted(tensors):
            written = 0
            for piece in tensors[name].pieces():
                _write(file, digest, piece)
                written += len(piece)
                if pace is not None:
                    pace.rest()
            if written != tensors[name].size:
                raise InvalidInput(name, f"{written} bytes", f"{tensors[name].size} bytes")
    return digest.hexdigest()


def _write(file: BinaryIO, digest: _Digest, data: memoryview | bytes) -> None:
    file.write(data)
    digest.update(data)


def _metadata(modules: Mapping[str, ModuleSource]) -> dict[str, str]:
    scales = {module: float(one.scale) for module, one in modules.items() if one.scale is not None}
    metadata = {FORMAT_KEY: LOW_RANK_FORMAT, SCALES_KEY: _canonical(scales)}
    if any(part not in LOW_RANK_PARTS for one in modules.values() for part in one.tensors):
        shapes = {module: list(one.shape) for module, one in modules.items() if one.shape is not None}
        metadata |= {FORMAT_KEY: FORMAT, SHAPES_KEY: _canonical(shapes)}
    return metadata


def _header(tensors: Mapping[str, TensorSource], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": metadata}
    position = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        entries[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, position + tensor.size],
        }
        position += tensor.size
    content = _canonical(entries).encode()
    content += b" " * (-len(content) % 8)
    return len(content).to_bytes(LENGTH_BYTES, "little") + content


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
