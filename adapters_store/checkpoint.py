"""The weights of a model folder: safetensors files that are opened when a tensor is asked for."""

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from polyad.adapters_store.errors import InvalidInput

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"

# Quantised weights are integers, or 8-bit floats that mean nothing without their scales.
_FLOATS = ("F64", "F32", "F16", "BF16")
_BLOCK_BYTES = 16 * 2**20


class Checkpoint:
    """Nothing is read before it is asked for, and then no more than one tensor.

    Every method raises InvalidInput, naming the tensor, if it is missing, no float, or cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def files(self) -> Mapping[str, Path]:
        """The file of each tensor."""
        index = self._folder / INDEX_FILE
        try:
            if index.is_file():
                weight_map = json.loads(index.read_text())["weight_map"]
                return {str(name): self._folder / Path(file).name for name, file in weight_map.items()}
            with safe_open(self._folder / SINGLE_FILE, "pt") as file:
                return dict.fromkeys(file.keys(), self._folder / SINGLE_FILE)
        except (OSError, ValueError, KeyError, AttributeError, TypeError, SafetensorError) as error:
            allowed = f"a folder with {SINGLE_FILE}, or with {INDEX_FILE} and its files"
            # the path is the server's own business: a client may read this
            raise InvalidInput("model", self._folder.name, f"{allowed} ({type(error).__name__})") from error

    def shape(self, name: str) -> tuple[int, ...]:
        with self._opened(name) as file:
            return tuple(file.get_slice(name).get_shape())

    def tensor(self, name: str) -> torch.Tensor:
        """The whole tensor, in its own dtype."""
        with self._opened(name) as file:
            self._check_dtype(name, file.get_slice(name).get_dtype())
            tensor: torch.Tensor = file.get_tensor(name)
            return tensor

    def blocks(self, name: str, *, transposed: bool = False) -> Iterator[tuple[slice, torch.Tensor]]:
        """A matrix in float64, some rows at a time; with `transposed`, the matrix is that of the file turned round."""
        with self._opened(name) as file:
            stored = file.get_slice(name)
            self._check_dtype(name, stored.get_dtype())
            rows, columns = reversed(stored.get_shape()) if transposed else stored.get_shape()
            step = max(_BLOCK_BYTES // (8 * columns), 1)
            for start in range(0, rows, step):
                part = slice(start, min(start + step, rows))
                yield part, (stored[:, part].t() if transposed else stored[part]).to(torch.float64)

    def same(self, name: str, other: "Checkpoint", other_name: str) -> bool:
        """Whether two tensors hold the same numbers, whatever their dtypes."""
        if self.shape(name) != other.shape(other_name):
            return False
        if len(self.shape(name)) == 2:
            pairs = zip(self.blocks(name), other.blocks(other_name), strict=True)
            return all(one.equal(two) for (_, one), (_, two) in pairs)
        with self._opened(name) as one, other._opened(other_name) as two:
            return bool(one.get_tensor(name).double().equal(two.get_tensor(other_name).double()))

    def _opened(self, name: str) -> Any:
        path = self.files.get(name)
        if path is None:
            allowed = f"one of the {len(self.files)} tensors of {self._folder.name}; quantised ones cannot be used"
            raise InvalidInput(f"model: {name}", "no such tensor", allowed)
        try:
            return safe_open(path, "pt")
        except (OSError, SafetensorError) as error:
            raise InvalidInput(f"model: {name}", path.name, f"a safetensors file ({type(error).__name__})") from error

    def _check_dtype(self, name: str, dtype: str) -> None:
        if dtype not in _FLOATS:
            raise InvalidInput(f"model: {name}", dtype, f"{', '.join(_FLOATS)}: quantised weights cannot be used")
