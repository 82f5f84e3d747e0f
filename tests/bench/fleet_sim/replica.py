"""One simulated server: seats in the batch, adapter slots, and a host memory that forgets what was used longest ago."""

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass


@dataclass(frozen=True)
class Times:
    """Seconds of each part of a request; a request's tokens are geometric around their mean.

    `step_s` are those of a step of the batch by the number of requests in it, up to a full one, where they were
    measured; then `token_s` counts for nothing.
    """

    load_s: float
    prefill_s: float
    token_s: float
    tokens: float
    step_s: tuple[float, ...] = ()

    @property
    def service_s(self) -> float:
        """How long a request runs, among as many as there can be."""
        if self.step_s:
            return self.prefill_s * len(self.step_s) + self.step_s[-1] * self.tokens
        return self.prefill_s + self.token_s * self.tokens


@dataclass(frozen=True)
class Size:
    """What one server has: requests at once, versions at once, versions in host memory."""

    seats: int
    slots: int
    host: int


@dataclass(slots=True)
class Request:
    arrival: float
    adapter: int
    service_s: float
    tokens: int = 1


class Replica:
    """Requests wait for their version, then for a seat and a slot, in order; who lacks a slot is passed by."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.outstanding = 0
        self.held: OrderedDict[int, None] = OrderedDict()
        self.loading: dict[int, list[Request]] = {}
        self.evicted: list[int] = []
        self._queue: deque[Request] = deque()
        self._slots: Counter[int] = Counter()
        self._seated = 0

    def arrive(self, request: Request) -> tuple[bool, list[Request]]:
        """Whether a load begins, and who starts to run."""
        self.outstanding += 1
        if request.adapter in self.held:
            self.held.move_to_end(request.adapter)
            self._queue.append(request)
            return False, self._start()
        waiting = self.loading.setdefault(request.adapter, [])
        waiting.append(request)
        return len(waiting) == 1, []

    def loaded(self, adapter: int) -> list[Request]:
        """A load has ended; who starts to run."""
        self.held[adapter] = None
        self._queue.extend(self.loading.pop(adapter))
        self._make_room()
        return self._start()

    def finish(self, request: Request) -> list[Request]:
        """A request has ended; who starts to run."""
        self.outstanding -= 1
        self._seated -= 1
        self._slots[request.adapter] -= 1
        if not self._slots[request.adapter]:
            del self._slots[request.adapter]
        return self._start()

    def _start(self) -> list[Request]:
        started: list[Request] = []
        passed: deque[Request] = deque()
        while self._queue and self._seated < self.size.seats:
            request = self._queue.popleft()
            if request.adapter in self._slots or len(self._slots) < self.size.slots:
                self._slots[request.adapter] += 1
                self._seated += 1
                started.append(request)
            else:
                passed.append(request)
        self._queue.extendleft(reversed(passed))
        return started

    def _make_room(self) -> None:
        busy = {request.adapter for request in self._queue} | self._slots.keys()
        for adapter in list(self.held):
            if len(self.held) <= self.size.host:
                return
            if adapter not in busy:
                del self.held[adapter]
                self.evicted.append(adapter)
