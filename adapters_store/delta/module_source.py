"""What goes into a delta file, known before its values are."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

from polyad.adapters_store.delta.header import DTYPES, FLOATS, INTEGERS
from polyad.adapters_store.delta.module_delta import ModuleDelta
from polyad.adapters_store.errors import InvalidInput

DTYPE_NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorSource:
    """A tensor that is copied into the file piece by piece; `pieces` yields exactly its bytes, in order."""

    dtype: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[memoryview]]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    @classmethod
    def of(cls, name: str, tensor: torch.Tensor) -> "TensorSource":
        """A tensor that is there already. Raises InvalidInput for a dtype that the file does not know."""
        if tensor.dtype not in DTYPE_NAMES:
            raise InvalidInput(name, str(tensor.dtype), ", ".join(FLOATS if tensor.is_floating_point() else INTEGERS))
        return cls(DTYPE_NAMES[tensor.dtype], tuple(tensor.shape), lambda: tensor_bytes(tensor))


@dataclass(frozen=True, kw_only=True)
class ModuleSource:
    """The tensors of one module, by the names that they have behind the module's, and the numbers beside them.

    `scale` belongs to the low-rank term, `shape` (out, in) to the sparse one; None where there is no such term.
    """

    tensors: Mapping[str, TensorSource]
    scale: float | None = None
    shape: tuple[int, int] | None = None

    @property
    def size(self) -> int:
        return sum(source.size for source in self.tensors.values())

    @property
    def rank(self) -> int:
        return self.tensors["low_rank.a"].shape[0] if "low_rank.a" in self.tensors else 0

    @property
    def sparse_values(self) -> int:
        return self.tensors["sparse.values"].shape[0] if "sparse.values" in self.tensors else 0

    @classmethod
    def of(cls, module: str, change: ModuleDelta) -> "ModuleSource":
        """A change that is there already. Raises InvalidInput for a dtype that the file does not know."""
        return cls(
            tensors={name: TensorSource.of(f"{module}.{name}", tensor) for name, tensor in change.tensors.items()},
            scale=change.low_rank.scale if change.low_rank else None,
            shape=change.sparse.shape if change.sparse else None,
        )


def tensor_bytes(tensor: torch.Tensor) -> list[memoryview]:
    """The bytes of a tensor, row-major, as the pieces of a source."""
    plain = tensor.detach().to("cpu").contiguous().flatten()
    return [plain.view(torch.uint8).numpy().data]
