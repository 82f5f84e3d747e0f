"""Whose request the engine takes next: virtual token counters, by tenant and then by adapter.

After "Fairness in Serving Large Language Models" (Sheng et al., OSDI 2024). A tenant's counter is the service that it
got, each token of a prompt 1, each token of an answer 2, divided by its weight. The waiting request of the smallest
counter is next; within a tenant those of the most urgent priority, of the adapter with the smallest counter, then the
oldest. A tenant that had nothing waiting comes back with at least the counter of the last one that was served, so that
nobody saves up credit.

The bound: while two tenants both have requests waiting, their counters differ by at most (P + 2 B T) / w, for prompts
of at most P tokens, answers of at most T, B requests that run at once, and the smallest weight w. For when a tenant was
taken last, its counter was the smallest; since then it grew by one prompt and by what its at most B running requests
said, and the smallest counter of those who wait never falls. So over any time in which both wait, the services that
two tenants get, divided by their weights, differ by at most twice that. It holds as long as whoever is next can be
admitted: one that needs a slot which is not free lets others pass, and is before them from then on.
"""

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, nlargest
from typing import TypeVar

T = TypeVar("T")

INPUT_COST = 1
OUTPUT_COST = 2

_SPARE = 256


@dataclass(frozen=True, slots=True)
class Claim:
    """For whom a request is, and the tokens of its prompt. The smallest `priority` is the most urgent."""

    tenant: str
    adapter: str
    prompt_tokens: int
    weight: float = 1.0
    priority: int = 0


class Counters:
    """The counters of one level: of the tenants, or of one tenant's adapters."""

    def __init__(self) -> None:
        self._served: dict[str, float] = {}
        self._waiting: frozenset[str] = frozenset()
        self._floor = 0.0

    def __getitem__(self, who: str) -> float:
        return self._served.get(who, self._floor)

    def __len__(self) -> int:
        return len(self._served)

    def wait(self, who: Collection[str]) -> None:
        """These have something waiting now; who had not before is lifted to the floor."""
        waiting = frozenset(who)
        for one in waiting - self._waiting:
            self._served[one] = max(self[one], self._floor)
        self._waiting = waiting
        if len(self._served) > 2 * (len(waiting) + _SPARE):
            self._forget(waiting)

    def _forget(self, waiting: frozenset[str]) -> None:
        """Who waits for nothing and is below the floor would be lifted to it: that need not be remembered. Of others
        only those who got most."""
        idle = {one: got for one, got in self._served.items() if one not in waiting and got > self._floor}
        most = nlargest(_SPARE, idle, key=idle.__getitem__)
        self._served = {one: self._served[one] for one in (*waiting, *most)}

    def take(self, who: str, cost: float) -> None:
        """One request is admitted: its prompt costs this."""
        self._floor = max(self._floor, self[who])
        self.add(who, cost)

    def add(self, who: str, cost: float) -> None:
        self._served[who] = self[who] + cost


class FairShare:
    """Orders what waits, and keeps the counters. Knows nothing of engines: time and requests are the caller's."""

    def __init__(self) -> None:
        self.tenants = Counters()
        self.adapters: dict[str, Counters] = {}

    def order(self, waiting: Sequence[T], claim: Callable[[T], Claim]) -> list[T]:
        """All that waits, the oldest first, in the order in which it is to be admitted. Call it before every step."""
        lines = self._lines([claim(one) for one in waiting])
        self._wait(lines)
        if sum(map(len, lines.values())) < 2:
            return list(waiting)
        return [waiting[index] for index in self._merged(lines)]

    def admitted(self, claim: Claim) -> None:
        """A request that waited runs from now on: its prompt is charged."""
        cost = INPUT_COST * claim.prompt_tokens
        self.tenants.take(claim.tenant, cost / claim.weight)
        self.adapters.setdefault(claim.tenant, Counters()).take(claim.adapter, cost)

    def produced(self, claim: Claim, tokens: int) -> None:
        """A running request said so many tokens."""
        cost = OUTPUT_COST * tokens
        self.tenants.add(claim.tenant, cost / claim.weight)
        self.adapters.setdefault(claim.tenant, Counters()).add(claim.adapter, cost)

    def _lines(self, claims: Sequence[Claim]) -> "_Lines":
        lines: _Lines = {}
        for index, claim in enumerate(claims):
            line = lines.setdefault(claim.tenant, {}).setdefault((claim.priority, claim.adapter), deque())
            line.append((index, INPUT_COST * claim.prompt_tokens, claim.weight))
        return lines

    def _wait(self, lines: "_Lines") -> None:
        self.tenants.wait(lines)
        for tenant in [known for known in self.adapters if known not in lines]:
            self.adapters[tenant].wait(())
        for tenant, own in lines.items():
            self.adapters.setdefault(tenant, Counters()).wait({adapter for _, adapter in own})
        if len(self.adapters) > 2 * len(lines) + _SPARE:
            self.adapters = {tenant: self.adapters[tenant] for tenant in lines}

    def _merged(self, lines: "_Lines") -> list[int]:
        """Plays the admissions through, on copies of the counters that the lines hold."""
        order: list[int] = []
        queues = {tenant: self._queue(tenant, own) for tenant, own in lines.items()}
        tenants = [(self.tenants[tenant], queue[0][2], tenant) for tenant, queue in queues.items()]
        heapify(tenants)
        while tenants:
            served, _, tenant = heappop(tenants)
            queue = queues[tenant]
            priority, own, _, adapter = heappop(queue)
            line = lines[tenant][priority, adapter]
            index, cost, weight = line.popleft()
            order.append(index)
            if line:
                heappush(queue, (priority, own + cost, line[0][0], adapter))
            if queue:
                heappush(tenants, (served + cost / weight, queue[0][2], tenant))
        return order

    def _queue(self, tenant: str, own: "_TenantLines") -> list[tuple[int, float, int, str]]:
        counters = self.adapters[tenant]
        queue = [(priority, counters[adapter], line[0][0], adapter) for (priority, adapter), line in own.items()]
        heapify(queue)
        return queue


# Of each tenant and each adapter at a priority: the place in the row of what waits, the prompt's cost, the weight.
_TenantLines = dict[tuple[int, str], deque[tuple[int, float, float]]]
_Lines = dict[str, _TenantLines]
