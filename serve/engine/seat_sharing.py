"""Whose running request gives up its seat, when all are taken and a tenant that asks for less than its share has one
waiting.

The line of those who wait is fair, but a seat falls free only when somebody's answer ends. So a tenant is entitled to
its share of the seats, by weight, among all that run or wait; at least to one. Who asks for no more than that, running
and waiting, does not wait for a seat: it takes one from who is furthest beyond its own share, and was served more
before; of that tenant the request that came last, so that those before it always get on. It is computed again later,
prompt and answer so far, and loses no token. Who holds more than its share asks for more than its share: so no two
tenants take seats from each other, and floods take none. Nor does a fusion: it is let in only if all of it fits to its
end, and would not come by that with a seat at a time.

Where a step takes the longer the more runs in it, which is so on a CPU, those who ask for more than their share, and
were served more before, also sit out the one step in which such a request begins; nobody sits out two in a row.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from polyad.serve.engine.fair_share import Claim, FairShare
from polyad.serve.engine.lockstep import Lockstep


@dataclass(frozen=True, slots=True)
class Holder:
    """One that runs, when it came, and the seats that fall free with it: those of its whole fusion."""

    tenant: str
    seats: int
    arrival: float


def entitlements(weights: Mapping[str, float], seats: int) -> dict[str, int]:
    """The seats that each tenant may count on, by the weights of all that run or wait."""
    whole = sum(weights.values())
    return {tenant: max(1, int(seats * weight / whole)) for tenant, weight in weights.items()}


def who_gives_way(running: Sequence[Holder], entitled: Mapping[str, int]) -> int | None:
    """The place in `running` of the one whose seats may be taken; None if nobody is so far beyond its share."""
    held = Counter(holder.tenant for holder in running)
    beyond = [
        (held[one.tenant] / entitled[one.tenant], one.arrival, place)
        for place, one in enumerate(running)
        if held[one.tenant] - one.seats >= entitled[one.tenant]
    ]
    return max(beyond)[-1] if beyond else None


class SeatSharing:
    """Makes room in a scheduler for the first of its line, before it schedules a step."""

    def __init__(
        self, scheduler: Scheduler, fair_share: FairShare, lockstep: Lockstep, claim: Callable[[Request], Claim]
    ) -> None:
        self._scheduler = scheduler
        self._fair_share = fair_share
        self._lockstep = lockstep
        self._claim = claim
        self._let_through = ""

    def make_room(self) -> bool:
        """Preempt what the first that waits may take; whether anything was."""
        scheduler = self._scheduler
        first = scheduler.waiting.peek_request()
        if not self._may_take(first) or self._has_room(first):
            return False
        asked, entitled = self._shares()
        if asked[self._claim(first).tenant] > entitled[self._claim(first).tenant]:
            return False
        preempted = False
        while not self._has_room(first):
            # Or the seat would go back to whom it was taken from, who would be first in the line.
            served_more = [one for one in scheduler.running if self._served(one) > self._served(first)]
            victim = who_gives_way([self._holder(request) for request in served_more], entitled)
            if victim is None:
                break
            self._lockstep.preempt(served_more[victim])
            preempted = True
        return preempted

    def sit_out(self) -> frozenset[str]:
        """The requests that are not in this step, because the first that waits begins in it: once for each."""
        scheduler = self._scheduler
        first = scheduler.waiting.peek_request()
        begins = first.status in (RequestStatus.WAITING, RequestStatus.PREEMPTED) and self._may_take(first)
        if not begins or first.request_id == self._let_through or not self._has_room(first):
            return frozenset()
        asked, entitled = self._shares()
        beyond = {tenant for tenant, count in asked.items() if count > entitled[tenant]}
        if self._claim(first).tenant in beyond:
            return frozenset()
        # Or who begins a short request in every step would be all that runs.
        served_more = {tenant for tenant in beyond if self._fair_share.tenants[tenant] > self._served(first)}
        self._let_through = first.request_id
        return frozenset(
            one.request_id
            for one in scheduler.running
            if self._lockstep.group_of(one) is None and self._claim(one).tenant in served_more
        )

    def _shares(self) -> tuple[Counter[str], dict[str, int]]:
        """The seats that each tenant asks for, running and waiting, and those that it may count on."""
        scheduler = self._scheduler
        claims = [self._claim(one) for one in (*scheduler.running, *scheduler.waiting)]
        entitled = entitlements({claim.tenant: claim.weight for claim in claims}, scheduler.max_num_active_reqs)
        return Counter(claim.tenant for claim in claims), entitled

    def _served(self, request: Request) -> float:
        return self._fair_share.tenants[self._claim(request).tenant]

    def _may_take(self, request: Request) -> bool:
        """Not a fusion, nor one that gave its own seat up a moment ago and still has tokens on their way."""
        unpaused = self._scheduler.pause_state == PauseState.UNPAUSED
        return unpaused and self._lockstep.group_of(request) is None and not request.num_stale_output_tokens

    def _has_room(self, request: Request) -> bool:
        scheduler, lockstep = self._scheduler, self._lockstep
        taken = len(scheduler.running) + scheduler.num_waiting_for_streaming_input + len(lockstep.pending)
        return (
            taken < scheduler.max_num_active_reqs
            and lockstep.blocks_for(request, request.num_tokens) <= lockstep.free_blocks
        )

    def _holder(self, request: Request) -> Holder:
        group = self._lockstep.group_of(request)
        return Holder(self._claim(request).tenant, 1 if group is None else len(group.members), request.arrival_time)
