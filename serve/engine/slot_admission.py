"""Which waiting request may run when there are more versions than slots: by the union of what runs, with fair ageing.

Requests stand in a line, which is the caller's to order; `turn` is a request's place in it.

A request needs a slot for each version that it weighs, and shares those that others use already. A version that keeps
getting requests could hold its slot for ever. So once a request has waited longer than `slot_wait_s`, slots are set
aside for it: free ones, which requests behind it may not take; and where these are too few, the least busy ones of
others, which are closed to requests behind it, and so fall free when their running requests end.
"""

from collections import Counter
from collections.abc import Iterable, Set
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Demand:
    """When a request came, in Unix seconds, the versions it needs, by engine id, and its turn among those that wait."""

    arrival: float
    versions: Set[int]
    turn: int = 0


class SlotAdmission:
    """Decides for one step after another: `begin`, then `admits` for each waiting request in turn."""

    def __init__(self, slots: int, slot_wait_s: float) -> None:
        self._slots = slots
        self._slot_wait_s = slot_wait_s
        self._used: Counter[int] = Counter()
        self._closed: dict[int, int] = {}
        self._reserved: list[tuple[int, int]] = []

    def begin(self, now: float, running: Iterable[Demand], waiting: Iterable[Demand]) -> None:
        """What runs now, and what waits."""
        self._used = Counter(version for demand in running for version in demand.versions)
        starved = [
            demand
            for demand in waiting
            if now - demand.arrival > self._slot_wait_s and not demand.versions <= self._used.keys()
        ]
        self._closed, self._reserved = self._set_aside(sorted(starved, key=lambda demand: demand.turn))

    def admits(self, demand: Demand) -> bool:
        """Whether the request may run beside what runs; if so, it counts as running."""
        if not self.has_slots(demand):
            return False
        self._used.update(demand.versions)
        return True

    def has_slots(self, demand: Demand) -> bool:
        """Whether it would be admitted now."""
        if not demand.versions:
            return True
        if any(demand.turn > self._closed.get(version, demand.turn) for version in demand.versions):
            return False
        needed = len(demand.versions - self._used.keys())
        kept = sum(count for turn, count in self._reserved if turn < demand.turn)
        return not needed or needed <= self._slots - len(self._used) - kept

    def _set_aside(self, starved: Iterable[Demand]) -> tuple[dict[int, int], list[tuple[int, int]]]:
        """Versions to close, each with the turn of the request that it gives way to; and free slots kept."""
        closed: dict[int, int] = {}
        reserved: list[tuple[int, int]] = []
        free = self._slots - len(self._used)
        promised: set[int] = set()
        for demand in starved:
            missing = demand.versions - self._used.keys() - promised
            taken = min(free, len(missing))
            victims = self._victims(demand.versions, closed)[: len(missing) - taken]
            if len(victims) < len(missing) - taken:
                break
            free -= taken
            promised |= missing
            reserved.append((demand.turn, taken))
            closed |= dict.fromkeys(victims, demand.turn)
        return closed, reserved

    def _victims(self, needed: Set[int], closed: dict[int, int]) -> list[int]:
        # A slot that is closed already stays closed: changing our mind would drain two slots for one request.
        others = [version for version in self._used if version not in needed and version not in closed]
        return sorted(others, key=lambda version: (version not in self._closed, self._used[version]))
