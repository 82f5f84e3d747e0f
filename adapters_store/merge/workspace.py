"""Memory that is used again and again: to be given new memory takes as long as to compute what is written there."""

import threading

import torch

from polyad.kernels import merging, sieve

_LOT = 2**26
# In bytes: a cache line.
_ALIGNED = 64


class Workspace(threading.local):
    """Each thread's. What is lent holds until the same is asked for again."""

    def __init__(self) -> None:
        self._matrices: dict[str, torch.Tensor] = {}
        self._rooms: dict[str, tuple[int, sieve.Room]] = {}
        self._lot = torch.empty(0, dtype=torch.uint8)
        self._used = self._size = 0

    def matrix(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Whatever is in it, float32."""
        elements = torch.Size(shape).numel()
        lent = self._matrices.get(name)
        if lent is None or lent.numel() < elements:
            lent = self._matrices[name] = merging.empty(elements)
        return lent[:elements].view(shape)

    def room(self, name: str, elements: int) -> sieve.Room:
        """For what is left of a task vector."""
        enough, lent = self._rooms.get(name, (0, None))
        if lent is None or enough < elements:
            lent = sieve.room(elements)
            self._rooms[name] = elements, lent
        return lent

    def lasting(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """New memory for a part of a result: cut from a lot, which the system gives in large pages, as far as it is
        written."""
        start, size = self._used, count * dtype.itemsize
        if start + size > self._size:
            start, self._size = 0, max(size, _LOT)
            self._lot = merging.empty(self._size, torch.uint8)
        self._used = start + -(-size // _ALIGNED) * _ALIGNED
        return self._lot[start : start + size].view(dtype)
