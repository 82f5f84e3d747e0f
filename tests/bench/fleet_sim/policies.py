"""Which server a request goes to, by how many requests each server has, and by who holds its adapter."""

import math
import random
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_POINTS = 64
# A server takes a request for an adapter that it holds, until it has so many times the mean (and one) of requests.
_AFFINE_BOUND = 1.25
_HASH_BOUND = 1.25


class Policy(Protocol):
    """`pick` chooses a server; `held` and `dropped` tell what a real router reads from the servers' metrics."""

    def pick(self, adapter: int, outstanding: NDArray[np.int64]) -> int: ...
    def held(self, adapter: int, replica: int) -> None: ...
    def dropped(self, adapter: int, replica: int) -> None: ...


class _Blind:
    def held(self, adapter: int, replica: int) -> None:
        pass

    def dropped(self, adapter: int, replica: int) -> None:
        pass


class Random(_Blind):
    def __init__(self, replicas: int, seed: int) -> None:
        self._replicas = replicas
        self._random = random.Random(seed)

    def pick(self, adapter: int, outstanding: NDArray[np.int64]) -> int:
        return self._random.randrange(self._replicas)


class LeastLoaded(_Blind):
    """The fewest requests, ties by chance."""

    def __init__(self, replicas: int, seed: int) -> None:
        self._random = random.Random(seed)

    def pick(self, adapter: int, outstanding: NDArray[np.int64]) -> int:
        return int(self._random.choice(np.flatnonzero(outstanding == outstanding.min())))


class AdapterAffine(LeastLoaded):
    """The least loaded of those that hold the adapter, unless all of them are full; else the least loaded of all."""

    def __init__(self, replicas: int, seed: int) -> None:
        super().__init__(replicas, seed)
        self._holders: defaultdict[int, set[int]] = defaultdict(set)

    def pick(self, adapter: int, outstanding: NDArray[np.int64]) -> int:
        bound = _AFFINE_BOUND * float(outstanding.mean()) + 1
        holders = [replica for replica in self._holders[adapter] if outstanding[replica] < bound]
        if holders:
            return min(holders, key=lambda replica: (outstanding[replica], replica))
        return super().pick(adapter, outstanding)

    def held(self, adapter: int, replica: int) -> None:
        self._holders[adapter].add(replica)

    def dropped(self, adapter: int, replica: int) -> None:
        self._holders[adapter].discard(replica)


class BoundedHash(_Blind):
    """Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam: arXiv 1608.01350).

    The first server behind the adapter's place on the ring that has fewer than 1.25 times the mean of requests.
    """

    def __init__(self, replicas: int, seed: int) -> None:
        places = np.random.default_rng(seed).random((replicas, _POINTS)).ravel()
        order = np.argsort(places)
        self._places: list[float] = places[order].tolist()
        self._owners: list[int] = (order // _POINTS).tolist()

    def pick(self, adapter: int, outstanding: NDArray[np.int64]) -> int:
        bound = math.ceil(_HASH_BOUND * (int(outstanding.sum()) + 1) / len(outstanding))
        # The golden ratio spreads whole numbers evenly over the ring.
        start = bisect_left(self._places, adapter * 0.6180339887498949 % 1)
        for step in range(len(self._owners)):
            owner = self._owners[(start + step) % len(self._owners)]
            if outstanding[owner] < bound:
                return owner
        raise AssertionError("some server is always below the bound")


POLICIES: dict[str, Callable[[int, int], Policy]] = {
    "random": Random,
    "least loaded": LeastLoaded,
    "adapter-affine": AdapterAffine,
    "bounded hash": BoundedHash,
}
