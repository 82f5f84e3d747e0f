"""Reads a torch.save file of plain containers and tensors, and nothing else: no name in it is ever imported.

What the file names is looked up in a table of this module's own functions; any other name is refused. Python's own
unpickler runs it, for the one in C lets a file of a few bytes ask for any amount of memory, and of that only the
operations that torch.save uses. Only the offline importer reads such files, never the server.
"""

import math
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from polyad.adapters_store.errors import InvalidInput

_STORAGES: Mapping[str, torch.dtype] = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
}
_DAMAGED = (
    pickle.UnpicklingError, EOFError, KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError,
    zipfile.BadZipFile, OSError, RecursionError, OverflowError, MemoryError, AssertionError,
    struct.error,
)  # fmt: skip


_PROTOCOL = 2
_PROTOCOLS = {ord(opcode.code): opcode.proto for opcode in pickletools.opcodes}


def read_pickled_tensors(path: Path) -> object:
    """The object in the file. Raises InvalidInput, naming it, for a global that is not in the table."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _Unpickler(path.name, archive).load()
    except _DAMAGED as error:
        allowed = "a file that torch.save wrote in its zip format"
        raise InvalidInput(path.name, f"{type(error).__name__}: {error}", allowed) from error


class _Unpickler(pickle._Unpickler):
    stack: list[Any]
    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        code: run for code, run in pickle._Unpickler.dispatch.items() if _PROTOCOLS[code] <= _PROTOCOL
    }

    def __init__(self, name: str, archive: zipfile.ZipFile) -> None:
        self._name = name
        self._archive = archive
        pickles = [entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")]
        if len(pickles) != 1 or pickles[0].compress_type != zipfile.ZIP_STORED:
            raise zipfile.BadZipFile(f"{len(pickles)} pickles in the archive, allowed: one, not compressed")
        self._root = pickles[0].filename.removesuffix("data.pkl")
        self._storages: dict[str, torch.Tensor] = {}
        super().__init__(archive.open(pickles[0]))

    def load_build(self) -> None:
        """Give an object its state: of the objects here only one has any."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _NumpyDtype):
            raise pickle.UnpicklingError(f"a state for {type(self.stack[-1]).__name__}")
        self.stack[-1].set_state(state)

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        found = _GLOBALS.get((module, name))
        if found is None:
            allowed = "dicts, lists, numbers, strings and tensors"
            raise InvalidInput(self._name, f"{module}.{name}", allowed)
        return found

    def persistent_load(self, pid: Any) -> torch.Tensor:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise pickle.UnpicklingError("a storage that is none")
        if key not in self._storages:
            entry = self._archive.getinfo(f"{self._root}data/{key}")
            if entry.file_size != count * dtype.itemsize or entry.compress_type != zipfile.ZIP_STORED:
                raise pickle.UnpicklingError(f"storage {key} has {entry.file_size} bytes for {count} elements")
            content = bytearray(self._archive.read(entry))
            self._storages[key] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        return self._storages[key]


def _tensor(storage: torch.Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *_: object) -> torch.Tensor:
    if math.prod(size) > len(storage):
        raise pickle.UnpicklingError(f"a tensor of {math.prod(size)} elements in a storage of {len(storage)}")
    # as_strided checks that all of it lies in the storage
    return storage.as_strided(tuple(size), tuple(stride), offset).clone()


def _parameter(tensor: torch.Tensor, *_: object) -> torch.Tensor:
    return tensor


class _NumpyDtype:
    """Numbers in lists may be numpy's; of them only the integers are known."""

    def __init__(self, code: str, *_: object) -> None:
        if code not in ("i8", "i4"):
            raise pickle.UnpicklingError(f"a number of numpy's dtype {code!r}")
        self.size = int(code[1])

    def set_state(self, state: tuple[object, ...]) -> None:
        if state[1] != "<":
            raise pickle.UnpicklingError("a number that is not little-endian")


def _numpy_integer(dtype: _NumpyDtype, content: bytes) -> int:
    if len(content) != dtype.size:
        raise pickle.UnpicklingError("a number of another length than its dtype")
    return int.from_bytes(content, "little", signed=True)


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


_GLOBALS: Mapping[tuple[str, str], Callable[..., object]] = {
    ("collections", "OrderedDict"): dict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("numpy", "dtype"): _NumpyDtype,
    ("numpy.core.multiarray", "scalar"): _numpy_integer,
    ("numpy._core.multiarray", "scalar"): _numpy_integer,
    ("_codecs", "encode"): _latin1,
}
