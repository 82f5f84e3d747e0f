"""One safetensors file of an adapter: its header is checked, its values are read when they are wanted, and finite."""

from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

import torch

from polyad.adapters_store.delta import Header, TensorEntry, TensorSource
from polyad.adapters_store.delta.header import DTYPES, FLOATS
from polyad.adapters_store.errors import InvalidAdapter

_PIECE_BYTES = 2**20


class TensorFile:
    """`field` is what error messages call it. The caller keeps `file` open as long as values are read."""

    def __init__(self, field: str, file: BinaryIO, header: Header) -> None:
        self.field = field
        self.tensors = header.tensors
        self._file = file

    def source(self, name: str) -> TensorSource:
        """A tensor that is copied without being held in memory."""
        entry = self.tensors[name]
        return TensorSource(entry.dtype, entry.shape, partial(self._pieces, name))

    def tensor(self, name: str) -> torch.Tensor:
        """The whole tensor, in its own dtype. Raises InvalidAdapter for a value that is not finite."""
        entry = self.tensors[name]
        content = bytearray(entry.size)
        position = 0
        for piece in self._pieces(name):
            content[position : position + len(piece)] = piece
            position += len(piece)
        if not content:
            return torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
        return torch.frombuffer(content, dtype=DTYPES[entry.dtype]).view(entry.shape)

    def check_shape(self, name: str, expected: tuple[int, ...], why: str) -> TensorEntry:
        """The entry of a tensor. Raises InvalidAdapter, giving `why`, if its shape is another."""
        entry = self.tensors[name]
        if entry.shape != expected:
            raise InvalidAdapter(f"{self.field}.{name}: shape", list(entry.shape), f"{list(expected)} ({why})")
        return entry

    def _pieces(self, name: str) -> Iterator[memoryview]:
        entry = self.tensors[name]
        buffer = memoryview(bytearray(min(_PIECE_BYTES, entry.size)))
        self._file.seek(entry.start)
        left = entry.size
        while left:
            piece = buffer[: min(len(buffer), left)]
            if self._file.readinto(piece) != len(piece):  # type: ignore[attr-defined]  # BinaryIO lacks it, files have it
                raise InvalidAdapter(self.field, f"{name}: end of file", f"{left} more bytes")
            if entry.dtype in FLOATS and not _finite(torch.frombuffer(piece, dtype=DTYPES[entry.dtype])):
                raise InvalidAdapter(f"{self.field}.{name}", "NaN or infinity", "finite values")
            yield piece
            left -= len(piece)


def _finite(values: torch.Tensor) -> bool:
    # One pass: a NaN is both the least and the largest.
    return all(map(torch.isfinite, values.aminmax()))
