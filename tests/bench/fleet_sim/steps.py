"""The steps of one simulated server: all requests in the batch get a token from each."""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from tests.bench.fleet_sim.replica import Request, Times


@dataclass(frozen=True, eq=False)
class Plan:
    """So many equal steps, after which something changes."""

    begin: float
    each_s: float
    steps: int

    @property
    def end(self) -> float:
        return self.begin + self.each_s * self.steps


class Steps:
    """A request begins when a step ends, has its first token when the next one does, and one of every step from there.

    A step takes the longer the more requests are in it, and `prefill_s` more for each that begins.
    """

    def __init__(self, times: Times) -> None:
        self.plan: Plan | None = None
        self._times = times
        self._waiting: list[Request] = []
        self._first: list[Request] = []
        # By the step that brings the last token.
        self._running: list[tuple[int, int, Request]] = []
        self._order = count()
        self._ended = 0

    def join(self, now: float, requests: Sequence[Request]) -> Plan | None:
        """Requests have got seats, and begin when the current step ends; what is planned then, None if nothing is."""
        self._waiting += requests
        if self.plan is None:
            self.plan = self._planned(now)
        elif requests:
            current = max(1, math.ceil((now - self.plan.begin) / self.plan.each_s))
            if current < self.plan.steps:
                self.plan = Plan(self.plan.begin, self.plan.each_s, current)
        return self.plan

    def finish(self) -> tuple[list[Request], list[Request]]:
        """What was planned has been done: who has a first token now, and who has the last. `join` plans anew."""
        if self.plan is not None:
            self._ended += self.plan.steps
        self.plan = None
        ended = []
        while self._running and self._running[0][0] <= self._ended:
            ended.append(heapq.heappop(self._running)[-1])
        first, self._first = self._first, []
        return first, ended

    def _planned(self, now: float) -> Plan | None:
        for request in self._waiting:
            heapq.heappush(self._running, (self._ended + request.tokens, next(self._order), request))
        self._first, self._waiting = self._waiting, []
        if not self._running:
            return None
        each_s = self._times.step_s[len(self._running) - 1] + self._times.prefill_s * len(self._first)
        return Plan(now, each_s, 1 if self._first else self._running[0][0] - self._ended)
