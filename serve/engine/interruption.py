"""A step that is broken off for a request that comes while it is computed.

Whoever comes waits for the end of the step that it meets, and on a CPU a step takes the longer the more runs in it. So
a step in which a tenant has more than its share is broken off, between two layers of the model, for a request of a
tenant within its own: that one begins, and what was broken off is computed again. The price is bounded: only in the
first half of the time that such a step takes, and none of the two steps that follow, in one of which it is done over:
nobody sits out two in a row.
"""

import mmap
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from vllm.v1.request import Request

from polyad.serve.engine.fair_share import Claim, Counters
from polyad.serve.engine.seat_sharing import entitlements

T = TypeVar("T")

_SHARE_OF_STEP = 0.5
_WHOLE_STEPS_BETWEEN = 2


class SharedNumber:
    """A number that an engine writes and its worker reads. Memory without a file: it is gone with the engine."""

    def __init__(self) -> None:
        descriptor = os.memfd_create("polyad-step")
        os.ftruncate(descriptor, mmap.PAGESIZE)
        self.path = f"/proc/{os.getpid()}/fd/{descriptor}"
        self._numbers = _mapped(descriptor)

    def write(self, number: int) -> None:
        self._numbers[0] = number


class NumberReader:
    """The same number, in the worker."""

    def __init__(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDWR)
        self._numbers = _mapped(descriptor)
        os.close(descriptor)

    def read(self) -> int:
        return self._numbers[0]


def _mapped(descriptor: int) -> "memoryview[int]":
    return memoryview(mmap.mmap(descriptor, mmap.PAGESIZE)).cast("Q")


@dataclass(frozen=True, slots=True)
class Mark:
    """For the worker: the step's number, and where that number appears once the step is to be broken off."""

    step: int
    path: str


@dataclass(frozen=True, slots=True)
class _Step(Generic[T]):
    number: int
    running: Sequence[T]
    seats: int
    until: float


class Interruption(Generic[T]):
    """Of one engine: `begin` and `end` for each of its steps, and `arrive`, in any thread, for whoever comes."""

    def __init__(
        self, served: Counters, claim: Callable[[T], Claim], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._served = served
        self._claim = claim
        self._clock = clock
        self._word = SharedNumber()
        self._number = 0
        self._began: float | None = None
        self._tokens = 0
        self._took: dict[int, float] = {}
        self._whole_left = 0
        self._step: _Step[T] | None = None

    def begin(self, running: Sequence[T], seats: int, tokens: int) -> Mark | None:
        """A step that can be broken off and done over, what runs in it, and how many tokens it computes; what its
        worker must know, if it may be."""
        self._began, self._tokens = self._clock(), tokens
        if self._whole_left:
            return None
        self._number += 1
        # as long as the last one of about as many tokens took
        until = self._began + _SHARE_OF_STEP * self._took.get(tokens.bit_length(), 0.0)
        self._step = _Step(self._number, running, seats, until)
        return Mark(self._number, self._word.path)

    def end(self, broken_off: bool) -> None:
        """The step is over, whichever it was."""
        began, self._began, self._step = self._began, None, None
        if began is None:
            return
        if broken_off:
            self._whole_left = _WHOLE_STEPS_BETWEEN
        else:
            self._whole_left = max(self._whole_left - 1, 0)
            self._took[self._tokens.bit_length()] = self._clock() - began

    def arrive(self, request: T) -> None:
        """A request has come. Whether it begins next is up to the scheduler."""
        step = self._step
        if step is not None and self._clock() < step.until and self._may_break(step, self._claim(request)):
            self._word.write(step.number)

    def _may_break(self, step: _Step[T], claim: Claim) -> bool:
        claims = [self._claim(one) for one in step.running]
        entitled = entitlements({one.tenant: one.weight for one in (*claims, claim)}, step.seats)
        held = Counter(one.tenant for one in claims)
        if held[claim.tenant] >= entitled[claim.tenant]:
            return False
        beyond = (tenant for tenant, seats in held.items() if seats > entitled[tenant])
        return any(self._served[tenant] > self._served[claim.tenant] for tenant in beyond)


class AnnouncedRequest(Request):
    """vLLM's request, of which whoever listens hears as soon as the engine's process has read it, amid a step."""

    listener: ClassVar[Callable[[Request], None] | None] = None

    @classmethod
    def from_engine_core_request(cls, *args: Any) -> Request:
        request = super().from_engine_core_request(*args)
        if cls.listener is not None:
            cls.listener(request)
        return request
