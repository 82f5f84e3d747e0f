"""What is left of task vectors, and what becomes of it, on CPU, in native code (csrc/sieve.cpp).

A product of low-rank factors is sifted as it is multiplied out: it never is a matrix. What is left of a task vector are
its values, one after the other, and a bit for every element; several are combined as they are.

A task vector is a tensor or a product of factors, float32, in one piece, on a CPU, without NaN; `takes` says whether
one is. Without a C++ compiler at installation, none is, and those who ask compute in torch.
"""

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from polyad.kernels import factors, merging
from polyad.kernels.factors import Term
from polyad.kernels.merging import Rule

try:
    from polyad.kernels import _sieve
except ImportError:
    LANES = 0
else:
    LANES = max(_sieve.supported().values())

Source = torch.Tensor | Term
Empty = Callable[[int, torch.dtype], torch.Tensor]

# Elements of a task vector whose bits are one number of `where`; and how much is read and written at once.
_GROUP = 16
# csrc/sieve.cpp has the same fields.
_SOURCE = struct.Struct("qqqqqqd")
_ROW = struct.Struct("qqdddd")


class Room(NamedTuple):
    """Memory for what is left of a task vector."""

    where: torch.Tensor
    values: torch.Tensor


class Left(NamedTuple):
    """What is left of a task vector: of the values at which a bit is set, the magnitudes from `low` to below `end`;
    times `factor`."""

    shape: tuple[int, ...]
    room: Room
    low: float = 0.0
    end: float = math.inf
    factor: float = 1.0


def takes(source: Source) -> bool:
    """Whether it can be worked on here."""
    if isinstance(source, Term):
        return LANES > 0 and factors.takes(source.a_RI, source.b_OR)
    return LANES > 0 and merging.takes(source) and source.numel() > 0


def room(elements: int) -> Room:
    """New memory, enough whatever is left; what is not needed is not written."""
    groups = -(-elements // _GROUP)
    return Room(torch.empty(groups + 1, dtype=torch.int16), merging.empty(elements + 2 * _GROUP))


def above(source: Source, to: Room, low: float) -> Left:
    """The magnitudes from `low` on; all, if it is 0."""
    _sieve.above(LANES, _source(source), float(low), *_addresses(to))
    return Left(shape_of(source), to)


def band(source: Source, to: Room, dropped: int, kept: int) -> Left:
    """The magnitudes that follow the `dropped` largest, `kept` of them. Of equal ones the first are larger."""
    low, end = _sieve.band(LANES, _source(source), dropped, kept, *_addresses(to))
    return Left(shape_of(source), to, low, end)


def random(source: Source, to: Room, key: int, limit: int) -> tuple[float, float]:
    """The elements whose random 24 bits are below `limit`; the L1 norm before and after."""
    return _sieve.random(LANES, _source(source), key, limit, *_addresses(to))


def shape_of(source: Source) -> tuple[int, ...]:
    if isinstance(source, Term):
        return source.b_OR.shape[0], source.a_RI.shape[1]
    return tuple(source.shape)


@dataclass(frozen=True, eq=False)
class Combination:
    """Several task vectors of one shape that become one, when somebody asks for it."""

    tasks: Sequence[Left]
    weights: Sequence[float]
    rule: Rule

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tasks[0].shape

    def dense(self, out: torch.Tensor) -> torch.Tensor:
        """All of it, into `out`."""
        self._combine(self._table(), 0, False, out)
        return out

    def sparse(self, index_dtype: torch.dtype, empty: Empty) -> tuple[torch.Tensor, torch.Tensor, float]:
        """The flat places of what is not zero, and its values, in memory that `empty` gives; the sum of the squares."""
        table = self._table()
        most = _sieve.most(LANES, table, len(self.tasks), math.prod(self.shape)) + _GROUP
        indices, values = empty(most, index_dtype), empty(most, torch.float32)
        count, squared = self._combine(table, indices.data_ptr(), index_dtype == torch.int64, values)
        return indices[:count], values[:count], squared

    def _combine(self, table: bytes, indices: int, wide: bool, out: torch.Tensor) -> tuple[int, float]:
        rule, n = self.rule.numbers, math.prod(self.shape)
        return _sieve.combine(LANES, table, len(self.tasks), *rule, n, indices, wide, out.data_ptr())

    def _table(self) -> bytes:
        return b"".join(
            _ROW.pack(*_addresses(task.room), weight, task.low, task.end, task.factor)
            for task, weight in zip(self.tasks, self.weights, strict=True)
        )


def _addresses(to: Room) -> tuple[int, int]:
    return to.where.data_ptr(), to.values.data_ptr()


def _source(source: Source) -> bytes:
    if not isinstance(source, Term):
        return _SOURCE.pack(source.data_ptr(), 0, 0, 0, 1, source.numel(), 1.0)
    a_RI, b_OR, scale = source
    return _SOURCE.pack(0, a_RI.data_ptr(), b_OR.data_ptr(), a_RI.shape[0], b_OR.shape[0], a_RI.shape[1], scale)
