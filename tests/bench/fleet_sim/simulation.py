"""A fleet under load, event by event."""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from tests.bench.fleet_sim.policies import Policy
from tests.bench.fleet_sim.replica import Replica, Request, Size, Times
from tests.bench.fleet_sim.steps import Plan, Steps


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
    return replay(replicas, size, times, arrivals(load, times, replicas * size.seats, seed), policy(replicas, seed))


def replay(replicas: int, size: Size, times: Times, requests: Sequence[Request], policy: Policy) -> Outcome:
    """The same with requests that are given, in the order of their arrival."""
    kind = _SteppedRun if times.step_s else _Run
    return kind(replicas, size, times, requests, policy).outcome()


class _Run:
    """Every request runs as if it were alone."""

    def __init__(self, replicas: int, size: Size, times: Times, requests: Sequence[Request], policy: Policy) -> None:
        self._times = times
        self._policy = policy
        self._servers = [Replica(size) for _ in range(replicas)]
        self._outstanding = np.zeros(replicas, dtype=np.int64)
        self._events: list[tuple[float, int, int, Request | int | Plan]] = []
        self._order = count()
        self._requests = requests
        self._counted_from = len(requests) // 3
        self._warm = requests[self._counted_from].arrival
        self._first_token: list[float] = []
        self._loads = 0

    def outcome(self) -> Outcome:
        for request in self._requests:
            self._run_until(request.arrival)
            self._arrive(request)
        self._run_until(float("inf"))
        return Outcome(np.array(self._first_token), self._loads / (len(self._requests) - self._counted_from))

    def _run_until(self, end: float) -> None:
        while self._events and self._events[0][0] <= end:
            now, _, index, what = heapq.heappop(self._events)
            self._happen(what, index, now)

    def _happen(self, what: Request | int | Plan, index: int, now: float) -> None:
        if isinstance(what, Request):
            self._begin(self._end(what, index), index, now)
        elif isinstance(what, int):
            self._held(what, index, now)

    def _arrive(self, request: Request) -> None:
        index = self._policy.pick(request.adapter, self._outstanding)
        self._outstanding[index] += 1
        loads, started = self._servers[index].arrive(request)
        if loads:
            self._loads += request.arrival >= self._warm
            self._push(self._load_end(index, request.arrival), index, request.adapter)
        self._begin(started, index, request.arrival)

    def _load_end(self, index: int, now: float) -> float:
        return now + self._times.load_s

    def _held(self, adapter: int, index: int, now: float) -> None:
        server = self._servers[index]
        started = server.loaded(adapter)
        self._policy.held(adapter, index)
        while server.evicted:
            self._policy.dropped(server.evicted.pop(), index)
        self._begin(started, index, now)

    def _end(self, request: Request, index: int) -> list[Request]:
        self._outstanding[index] -= 1
        return self._servers[index].finish(request)

    def _begin(self, started: Sequence[Request], index: int, now: float) -> None:
        for request in started:
            self._answered(request, now + self._times.prefill_s)
            self._push(now + request.service_s, index, request)

    def _answered(self, request: Request, now: float) -> None:
        if request.arrival >= self._warm:
            self._first_token.append(now - request.arrival)

    def _push(self, when: float, index: int, what: Request | int | Plan) -> None:
        heapq.heappush(self._events, (when, next(self._order), index, what))


class _SteppedRun(_Run):
    """Requests share the steps of their server, which loads one version after another."""

    def __init__(self, replicas: int, size: Size, times: Times, requests: Sequence[Request], policy: Policy) -> None:
        super().__init__(replicas, size, times, requests, policy)
        self._steps = [Steps(times) for _ in range(replicas)]
        self._loaded_at = [0.0] * replicas

    def _happen(self, what: Request | int | Plan, index: int, now: float) -> None:
        if not isinstance(what, Plan):
            super()._happen(what, index, now)
        elif what is self._steps[index].plan:
            first, ended = self._steps[index].finish()
            for request in first:
                self._answered(request, now)
            self._begin([one for request in ended for one in self._end(request, index)], index, now)

    def _load_end(self, index: int, now: float) -> float:
        self._loaded_at[index] = max(now, self._loaded_at[index]) + self._times.load_s
        return self._loaded_at[index]

    def _begin(self, started: Sequence[Request], index: int, now: float) -> None:
        planned = self._steps[index].plan
        plan = self._steps[index].join(now, started)
        if plan is not None and plan is not planned:
            self._push(plan.end, index, plan)


def arrivals(load: Load, times: Times, seats: int, seed: int) -> list[Request]:
    """Requests as a load brings them to so many seats."""
    chance = np.random.default_rng(seed)
    rate = load.share * seats / times.service_s
    moments = np.cumsum(chance.exponential(1 / rate, load.requests))
    weights = np.arange(1.0, load.adapters + 1) ** -load.exponent
    adapters = chance.choice(load.adapters, load.requests, p=weights / weights.sum())
    tokens = chance.geometric(1 / times.tokens, load.requests)
    return [
        Request(float(at), int(adapter), times.prefill_s + times.token_s * int(made), int(made))
        for at, adapter, made in zip(moments, adapters, tokens, strict=True)
    ]
