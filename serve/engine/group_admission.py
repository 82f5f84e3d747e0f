"""Which waiting requests may run where there are fusion groups: a group only as a whole, and if it fits to its end.

A group that has to wait lets others pass. Once it has waited longer than `wait_s`, requests behind it in the line wait
too, so that what runs makes room for it as it ends. The line is that of the slots (`turn` is a place in it), or a group
and a request that each have what the other needs could wait for each other.
"""

import math
from collections.abc import Callable

from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from polyad.serve.engine.lockstep import FusionGroup, Lockstep

_READY = (RequestStatus.WAITING, RequestStatus.PREEMPTED)


class GroupAdmission:
    """Decides for one step after another: `begin`, then for each waiting request `fits`, and `admit` if it may run."""

    def __init__(self, scheduler: Scheduler, lockstep: Lockstep, wait_s: float, turn: Callable[[Request], int]) -> None:
        self._scheduler = scheduler
        self._turn = turn
        self._lockstep = lockstep
        self._wait_s = wait_s
        self._closed: float = math.inf
        self._together: FusionGroup | None = None

    def begin(self, now: float) -> None:
        """What waits, and for how long."""
        waiting = [group for group in self._lockstep.groups.values() if not group.admitted]
        starved = [group for group in waiting if now - group.leader.arrival_time > self._wait_s]
        self._closed = min((self._turn(group.leader) for group in starved), default=math.inf)
        self._together = next(filter(self._may_begin_together, waiting), None)
        if self._together is not None:
            self._lockstep.ready.add(self._together)

    def fits(self, request: Request) -> bool:
        """Whether there is room for the request, and for the rest of its group."""
        if self._lockstep.preempted:
            return False
        group = self._lockstep.group_of(request)
        if self._together is not None and group is not self._together:
            return False
        if group is None:
            return self._turn(request) <= self._closed and self._has_room(1, self._blocks_now(request))
        if group.leader.num_tokens == 1 and group is not self._together:
            return False
        return group.admitted or self._group_fits(group)

    def admit(self, request: Request) -> None:
        """The request runs from this step on, and so will its group."""
        group = self._lockstep.group_of(request)
        if group is not None:
            group.admitted = True

    def blocks_to_end(self, group: FusionGroup) -> int:
        """Blocks that the group's members must still be given before they reach their last token."""
        return sum(
            self._lockstep.blocks_for(member, member.num_prompt_tokens + member.max_tokens) for member in group.members
        )

    def _may_begin_together(self, group: FusionGroup) -> bool:
        """A prompt of one token has no part that a member could compute before the others are there."""
        members = len(group.members)
        return (
            group.leader.num_tokens == 1
            and not self._lockstep.preempted
            and not self._scheduler.kv_holding_waiting
            and self._lockstep.spare_tokens >= members
            and self._lockstep.spare_blocks >= members
            and self._group_fits(group)
        )

    def _group_fits(self, group: FusionGroup) -> bool:
        if any(member.status not in _READY or member.num_stale_output_tokens for member in group.members):
            return False
        if self._turn(group.leader) > self._closed:
            return False
        needed = self.blocks_to_end(group)
        if needed > self._lockstep.all_blocks:
            group.broken = True
            return False
        promised = sum(self.blocks_to_end(one) for one in self._lockstep.groups.values() if one.admitted)
        return self._has_room(len(group.members), needed + promised)

    def _blocks_now(self, request: Request) -> int:
        """What a plain request needs, beside what is kept for members that are still to come."""
        members = self._lockstep.pending
        if not members:
            return 0
        return sum(self._lockstep.blocks_for(one, one.num_tokens) for one in (request, *members))

    def _has_room(self, seats: int, blocks: int) -> bool:
        taken = len(self._scheduler.running) + len(self._lockstep.pending)
        return taken + seats <= self._scheduler.max_num_active_reqs and blocks <= self._lockstep.free_blocks
