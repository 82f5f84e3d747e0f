"""A fleet under load, event by event."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from tests.bench.fleet_sim.policies import Policy
from tests.bench.fleet_sim.replica import Replica, Request, Size, Times


@dataclass(frozen=True)
class Load:
    """Poisson arrivals at a share of what all seats could serve; adapters by Zipf's law."""

    adapters: int
    exponent: float
    share: float
    requests: int


@dataclass(frozen=True)
class Outcome:
    """Seconds from arrival to first token of each counted request, and loads per request."""

    first_token_s: NDArray[np.float64]
    loads_per_request: float

    def quantile(self, share: float) -> float:
        return float(np.quantile(self.first_token_s, share))


def simulate(
    replicas: int, size: Size, times: Times, load: Load, policy: Callable[[int, int], Policy], seed: int = 0
) -> Outcome:
    """Run `load.requests` requests through the fleet. The first third warms it up and is not counted."""
    return _Run(replicas, size, times, load, policy(replicas, seed), seed).outcome()


class _Run:
    def __init__(self, replicas: int, size: Size, times: Times, load: Load, policy: Policy, seed: int) -> None:
        self._times = times
        self._policy = policy
        self._servers = [Replica(size) for _ in range(replicas)]
        self._outstanding = np.zeros(replicas, dtype=np.int64)
        self._events: list[tuple[float, int, int, Request | int]] = []
        self._order = count()
        self._requests = _requests(load, times, replicas * size.seats, seed)
        self._counted_from = len(self._requests) // 3
        self._first_token: list[float] = []
        self._loads = 0

    def outcome(self) -> Outcome:
        warm = self._requests[self._counted_from].arrival
        for request in self._requests:
            self._run_until(request.arrival, warm)
            self._arrive(request, counted=request.arrival >= warm)
        self._run_until(float("inf"), warm)
        return Outcome(np.array(self._first_token), self._loads / (len(self._requests) - self._counted_from))

    def _run_until(self, end: float, warm: float) -> None:
        while self._events and self._events[0][0] <= end:
            now, _, index, what = heapq.heappop(self._events)
            server = self._servers[index]
            if isinstance(what, Request):
                self._outstanding[index] -= 1
                started = server.finish(what)
            else:
                started = server.loaded(what)
                self._policy.held(what, index)
                while server.evicted:
                    self._policy.dropped(server.evicted.pop(), index)
            self._begin(started, index, now, warm)

    def _arrive(self, request: Request, counted: bool) -> None:
        index = self._policy.pick(request.adapter, self._outstanding)
        self._outstanding[index] += 1
        loads, started = self._servers[index].arrive(request)
        if loads:
            self._loads += counted
            self._push(request.arrival + self._times.load_s, index, request.adapter)
        self._begin(started, index, request.arrival, self._requests[self._counted_from].arrival)

    def _begin(self, started: list[Request], index: int, now: float, warm: float) -> None:
        for request in started:
            if request.arrival >= warm:
                self._first_token.append(now + self._times.prefill_s - request.arrival)
            self._push(now + request.service_s, index, request)

    def _push(self, when: float, index: int, what: Request | int) -> None:
        heapq.heappush(self._events, (when, next(self._order), index, what))


def _requests(load: Load, times: Times, seats: int, seed: int) -> list[Request]:
    chance = np.random.default_rng(seed)
    rate = load.share * seats / times.service_s
    arrivals = np.cumsum(chance.exponential(1 / rate, load.requests))
    weights = np.arange(1.0, load.adapters + 1) ** -load.exponent
    adapters = chance.choice(load.adapters, load.requests, p=weights / weights.sum())
    tokens = chance.geometric(1 / times.tokens, load.requests)
    return [
        Request(float(at), int(adapter), times.prefill_s + times.token_s * int(made))
        for at, adapter, made in zip(arrivals, adapters, tokens, strict=True)
    ]
