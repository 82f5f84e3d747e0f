"""Which waiting requests may run where there are fusion groups: a group only as a whole, and if it fits to its end.

A group that has to wait lets others pass. Once it has waited longer than `wait_s`, requests behind it in the line wait
too, so that what runs makes room for it as it ends. The line is that of the slots (`turn` is a place in it), or a group
and a request that each have what the other needs could wait for each other.

A group whose whole text has a place in what a step has left begins and samples in that step. Any other computes all but
its last token first, and samples when all of its members have come so far.
"""

import math
from collections.abc import Callable
from itertools import islice

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
        self._tokens = 0
        # The members of a group that begins in this step and of which others have begun.
        self._expected: list[Request] = []

    def begin(self, now: float) -> None:
        """What waits, and for how long."""
        config = self._scheduler.scheduler_config
        self._tokens = min(self._scheduler.max_num_scheduled_tokens, config.max_num_batched_tokens)
        self._expected = []
        waiting = [group for group in self._lockstep.groups.values() if not group.admitted]
        starved = [group for group in waiting if now - group.leader.arrival_time > self._wait_s]
        self._closed = min((self._turn(group.leader) for group in starved), default=math.inf)

    def spend(self, tokens: int) -> None:
        """A request, running or waiting, computes so many tokens in this step."""
        self._tokens -= tokens

    def fits(self, request: Request) -> bool:
        """Whether there is room for the request, and for the rest of its group."""
        if self._lockstep.preempted:
            return False
        group = self._lockstep.group_of(request)
        if self._expected:
            return request in self._expected
        if group is None:
            return self._turn(request) <= self._closed and self._has_room(1, self._blocks_now(request))
        # A text of one token has no part that a member could compute before the others are there.
        if group.leader.num_tokens == 1 and not self._samples_at_once(group):
            return False
        return group.admitted or self._group_fits(group)

    def admit(self, request: Request) -> None:
        """The request runs from this step on, and so will its group."""
        group = self._lockstep.group_of(request)
        if group is None:
            return
        group.admitted = True
        if not self._expected and self._samples_at_once(group):
            self._lockstep.ready.add(group)
            self._expected = list(group.members)
        if self._expected:
            self._expected.remove(request)

    def blocks_to_end(self, group: FusionGroup) -> int:
        """Blocks that the group's members must still be given before they reach their last token."""
        return sum(
            self._lockstep.blocks_for(member, member.num_prompt_tokens + member.max_tokens) for member in group.members
        )

    def _samples_at_once(self, group: FusionGroup) -> bool:
        """Whether vLLM can but compute the whole text of each member in this step, if it comes to them now."""
        members = set(group.members)
        if set(islice(self._scheduler.waiting, len(members))) != members:
            return False
        if any(member.status not in _READY or member.num_computed_tokens for member in members):
            return False
        tokens = group.leader.num_tokens
        blocks = sum(self._lockstep.blocks_for(member, tokens) for member in members)
        enough = tokens * len(members) <= self._tokens and blocks <= self._free_blocks
        return enough and (tokens == 1 or self._in_one_piece(tokens))

    def _in_one_piece(self, tokens: int) -> bool:
        scheduler = self._scheduler
        longest = scheduler.scheduler_config.long_prefill_token_threshold or tokens
        return tokens <= longest and scheduler.connector is None and not scheduler.need_mamba_block_aligned_split

    def _group_fits(self, group: FusionGroup) -> bool:
        if any(member.status not in _READY or member.num_stale_output_tokens for member in group.members):
            return False
        if self._turn(group.leader) > self._closed:
            return False
        needed = self.blocks_to_end(group)
        if needed > self._lockstep.all_blocks - self._kept_blocks:
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
        scheduler = self._scheduler
        taken = len(scheduler.running) + scheduler.num_waiting_for_streaming_input + len(self._lockstep.pending)
        return taken + seats <= scheduler.max_num_active_reqs and blocks <= self._free_blocks

    @property
    def _free_blocks(self) -> int:
        return self._lockstep.free_blocks - self._kept_blocks

    @property
    def _kept_blocks(self) -> int:
        """Those that vLLM gives to no request that begins."""
        return int(self._scheduler.kv_cache_manager.watermark_blocks)
