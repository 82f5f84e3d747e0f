"""Fusion groups in vLLM's scheduler: sequences that only ever sample together, or not at all.

Each step is planned before vLLM makes it: which groups are one token from sampling in all of their members, and whether
the step's tokens and blocks are enough for all that run. Where blocks are short, whole groups or plain requests are
preempted beforehand, the latest first, so that vLLM's own loop never has to preempt one member of a group. All other
members are held at their last known token.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from vllm.sampling_params import SamplingParams
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from polyad.kernels.fusion.method import Method
from polyad.serve.engine.fusion_request import FusionRequest, fusion_of

_SEPARATOR = "/follower-"


@dataclass(eq=False)
class FusionGroup:
    """The leader, which is the client's request, and the followers, which nobody hears of."""

    leader: Request
    fusion: FusionRequest
    members: tuple[Request, ...]
    admitted: bool = False
    waited: int = 0
    broken: bool = False

    @property
    def pending(self) -> tuple[Request, ...]:
        """The members that do not run."""
        return tuple(member for member in self.members if member.status != RequestStatus.RUNNING)

    @property
    def alike(self) -> bool:
        """Whether all members have the same text, as they must at all times."""
        tokens = {member.num_tokens for member in self.members}
        return len(tokens) == 1 and len({member.all_token_ids[-1] for member in self.members}) == 1


@dataclass(frozen=True, slots=True)
class FusionStep:
    """What the worker is told of a group that samples in a step: its requests, the leader first."""

    request_ids: tuple[str, ...]
    method: Method


def left(request: Request) -> int:
    """The tokens that a request has still to compute before, and with, its next sample."""
    known = request.num_tokens_with_spec + request.num_output_placeholders
    return int(known - request.num_computed_tokens)


class Lockstep:
    """The groups of one scheduler. Empty, it costs nothing."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.groups: dict[str, FusionGroup] = {}
        self._group_of: dict[str, FusionGroup] = {}
        self.ready: set[FusionGroup] = set()
        self.preempted = False

    def __bool__(self) -> bool:
        return bool(self.groups)

    def group_of(self, request: Request) -> FusionGroup | None:
        return self._group_of.get(request.request_id)

    def is_follower(self, request_id: str) -> bool:
        group = self._group_of.get(request_id)
        return group is not None and group.leader.request_id != request_id

    def add(self, leader: Request) -> list[Request]:
        """Make the group of a fused request; returns its followers. A request that is not fused has none."""
        fusion = fusion_of(leader.sampling_params)
        if fusion is None:
            return []
        followers = list(_followers(leader, fusion))
        group = FusionGroup(leader, fusion, (leader, *followers))
        self.groups[leader.request_id] = group
        self._group_of |= {member.request_id: group for member in group.members}
        return followers

    def with_members(self, request_ids: set[str]) -> set[str]:
        """The requests, and all members of their groups."""
        groups = {self._group_of[name] for name in request_ids if name in self._group_of}
        return request_ids | {member.request_id for group in groups for member in group.members}

    def side_by_side(self, line: list[Request]) -> list[Request]:
        """The same line, but members of a group stand together, where the first of them stood."""
        if not self.groups:
            return line
        units: dict[Request | FusionGroup, list[Request]] = {}
        for request in line:
            units.setdefault(self.group_of(request) or request, []).append(request)
        return list(chain.from_iterable(units.values()))

    @property
    def pending(self) -> list[Request]:
        """The members of admitted groups that do not run yet."""
        return [member for group in self.groups.values() if group.admitted for member in group.pending]

    def preempt(self, request: Request) -> None:
        """Take a running request's blocks and seat, or those of its whole group."""
        scheduler, group = self._scheduler, self.group_of(request)
        victims = [one for one in (group.members if group else (request,)) if one.status == RequestStatus.RUNNING]
        if group is not None:
            group.admitted = False
            self.ready.discard(group)
        now = time.monotonic()
        for victim in reversed(victims):  # each goes to the head of the queue: the leader is to be the first
            scheduler.running.remove(victim)
            scheduler._preempt_request(victim, now)

    def plan(self) -> None:
        """Decide which groups sample in the coming step, and make room for all that it computes."""
        self.preempted = False
        self.ready = {group for group in self.groups.values() if _one_left(group)}
        while True:
            computed = self._simulate()
            late = {group for group in self.ready if any(member not in computed for member in group.members)}
            if not late:
                if self._fits(computed):
                    break
                self._preempt_latest()
            self.ready -= late
        for group in self.groups.values():
            group.waited += any(left(member) == 1 for member in group.members) and group not in self.ready

    def hold(self, request: Request, num_computed: int, num_new: int) -> int:
        """How many of these tokens a request may compute now."""
        group = self.group_of(request)
        if group is None or group in self.ready or num_new == 0:
            return num_new
        known = request.num_tokens_with_spec + request.num_output_placeholders
        return max(0, min(num_new, known - 1 - num_computed))

    def steps(self, scheduled: dict[str, int]) -> list[FusionStep]:
        """What the worker must fuse; a group of which not all, or not the right members sample is broken."""
        steps = []
        for group in self.groups.values():
            sampling = [self._samples(member, scheduled) for member in group.members]
            if all(sampling):
                steps.append(FusionStep(tuple(member.request_id for member in group.members), group.fusion.method))
            elif any(sampling):
                group.broken = True
        return steps

    def ended(self) -> list[FusionGroup]:
        """Forget the groups that are broken, or of which a member has ended, and return them."""
        found = []
        for group in list(self.groups.values()):
            ended = any(member.is_finished() for member in group.members)
            group.broken = group.broken or (not ended and not group.alike)
            if ended or group.broken:
                self._forget(group)
                found.append(group)
        return found

    def _forget(self, group: FusionGroup) -> None:
        del self.groups[group.leader.request_id]
        self.ready.discard(group)
        for member in group.members:
            del self._group_of[member.request_id]

    def _samples(self, member: Request, scheduled: dict[str, int]) -> bool:
        # vLLM has counted the step's tokens as computed by now.
        return member.request_id in scheduled and not member.is_prefill_chunk

    def _simulate(self) -> dict[Request, int]:
        """The tokens that vLLM's loop will give to each running request."""
        scheduler = self._scheduler
        budget = scheduler.max_num_scheduled_tokens
        computed: dict[Request, int] = {}
        for request in scheduler.running:
            longest = scheduler.max_model_len - request.num_computed_tokens - 1
            new = self.hold(request, request.num_computed_tokens, min(left(request), longest, budget))
            if new > 0 and not _at_its_end(request):
                computed[request] = new
                budget -= new
        return computed

    def _fits(self, computed: dict[Request, int]) -> bool:
        return self._blocks(computed) <= self.free_blocks or not self._preemptible()

    def _blocks(self, computed: dict[Request, int]) -> int:
        return sum(self.blocks_for(request, request.num_computed_tokens + new) for request, new in computed.items())

    @property
    def free_blocks(self) -> int:
        return int(self._scheduler.kv_cache_manager.block_pool.get_num_free_blocks())

    @property
    def all_blocks(self) -> int:
        """Those that an idle engine has free: one is vLLM's own."""
        return int(self._scheduler.kv_cache_manager.block_pool.num_gpu_blocks) - 1

    def blocks_for(self, request: Request, tokens: int) -> int:
        """Blocks that a request must be given so that its first `tokens` tokens have a place."""
        manager = self._scheduler.kv_cache_manager
        tokens = min(tokens, self._scheduler.max_model_len)
        return int(
            manager.coordinator.get_num_blocks_to_allocate(
                request_id=request.request_id,
                num_tokens=tokens,
                new_computed_blocks=manager.empty_kv_cache_blocks.blocks,
                num_encoder_tokens=0,
                total_computed_tokens=request.num_computed_tokens,
                num_local_computed_tokens=request.num_computed_tokens,
                num_tokens_main_model=tokens,
                prefill_end=max(request.num_prompt_tokens, request.num_tokens - 1),
            )
        )

    def _preemptible(self) -> bool:
        """Whether there is more than one to preempt: the last one must go on, and vLLM knows what to do with it."""
        units = {self.group_of(request) or request for request in self._scheduler.running}
        return len(units) > 1

    def _preempt_latest(self) -> None:
        self.preempt(self._scheduler.running[-1])
        self.preempted = True


def _one_left(group: FusionGroup) -> bool:
    return all(member.status == RequestStatus.RUNNING and left(member) == 1 for member in group.members)


def _at_its_end(request: Request) -> bool:
    """Whether vLLM will skip a request because the step before makes its last token."""
    placeholders = request.num_output_placeholders
    end = request.num_prompt_tokens + request.max_tokens
    return bool(placeholders > 0 and request.num_computed_tokens + 2 - placeholders >= end)


def _followers(leader: Request, fusion: FusionRequest) -> Iterator[Request]:
    """The same text for another composition; what it samples is replaced by what the leader sampled."""
    for number, lora_request in enumerate(fusion.followers, 1):
        yield Request(
            request_id=f"{leader.request_id}{_SEPARATOR}{number}",
            prompt_token_ids=leader.prompt_token_ids,
            # The leader alone says when to stop.
            sampling_params=SamplingParams(
                max_tokens=leader.max_tokens,
                temperature=0,
                ignore_eos=True,
                skip_reading_prefix_cache=leader.sampling_params.skip_reading_prefix_cache,
            ),
            pooling_params=None,
            client_index=leader.client_index,
            arrival_time=leader.arrival_time,
            lora_request=lora_request,
            cache_salt=leader.cache_salt,
            trace_headers=leader.trace_headers,
            priority=leader.priority,
            block_hasher=leader._block_hasher,
        )
