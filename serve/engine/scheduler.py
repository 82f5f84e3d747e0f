"""vLLM's scheduler, which admits requests by fair share and by the versions that their compositions need, and keeps
fusions in step."""

import time
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.request import Request, RequestStatus

from polyad.serve.engine.composition import weights_of
from polyad.serve.engine.fair_share import FairShare
from polyad.serve.engine.fusion_request import KEY
from polyad.serve.engine.group_admission import GroupAdmission
from polyad.serve.engine.interruption import AnnouncedRequest, Interruption, Mark
from polyad.serve.engine.lockstep import FusionGroup, Lockstep
from polyad.serve.engine.ownership import claim_of
from polyad.serve.engine.seat_sharing import SeatSharing
from polyad.serve.engine.slot_admission import Demand, SlotAdmission


class SlotScheduler(AsyncScheduler):
    """vLLM would count the different adapters of a batch; here a batch may hold any number of different compositions
    of as many versions as there are slots."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        slot_wait_s = float(self.vllm_config.additional_config["polyad"]["slot_wait_s"])
        self._admission = SlotAdmission(self.vllm_config.lora_config.max_loras, slot_wait_s)
        self._fair_share = FairShare()
        self._turns: dict[str, int] = {}
        self._lockstep = Lockstep(self)
        self._groups = GroupAdmission(self, self._lockstep, slot_wait_s, self._turn)
        self._seats = SeatSharing(self, self._fair_share, self._lockstep, claim_of)
        self._tokens_cost_time = self.vllm_config.device_config.device_type == "cpu"
        self._sitting_out: frozenset[str] = frozenset()
        self._interruption = Interruption(self._fair_share.tenants, claim_of)
        if self._interruptible:
            AnnouncedRequest.listener = self._interruption.arrive
        # Or vLLM would admit by its own count.
        self.lora_config = None

    def add_request(self, request: Request) -> None:
        for one in (request, *self._lockstep.add(request)):
            super().add_request(one)

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        self._line_up()
        sat_out, self._sitting_out = self._sitting_out, frozenset()
        if self.waiting and self._admission.has_slots(self._demand(self.waiting.peek_request())):
            if self._seats.make_room():
                self._line_up()
            if self._tokens_cost_time:
                self._sitting_out = self._seats.sit_out() - sat_out
        if self._lockstep:
            self._lockstep.plan()
            self._groups.begin(time.time())
        scheduled = super().schedule(*args, **kwargs)
        for new in scheduled.scheduled_new_reqs:
            self._fair_share.admitted(claim_of(self.requests[new.req_id]))
        if self._lockstep:
            # For the worker: which requests of this step are the streams of one text.
            scheduled.polyad_fusion = self._lockstep.steps(scheduled.num_scheduled_tokens)
        scheduled.polyad_mark = self._mark(scheduled)
        return scheduled

    def _line_up(self) -> None:
        line = self._lockstep.side_by_side(self._fair_share.order(list(self.waiting), claim_of))
        self.waiting.clear()
        self.waiting.extend(line)
        self._turns = {request.request_id: turn for turn, request in enumerate(line)}
        if self.waiting or self.kv_holding_waiting:
            self._admission.begin(time.time(), map(self._demand, self.running), map(self._demand, line))

    def finish_requests(self, request_ids: str | Iterable[str] | None, finished_status: RequestStatus) -> list[Request]:
        if request_ids is not None and self._lockstep:
            named = {request_ids} if isinstance(request_ids, str) else set(request_ids)
            request_ids = self._lockstep.with_members(named)
        finished = [
            request
            for request in super().finish_requests(request_ids, finished_status)
            if not self._lockstep.is_follower(request.request_id)
        ]
        self._lockstep.ended()
        return finished

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> dict[int, Any]:
        broken_off = getattr(model_runner_output, "polyad_broken_off", False)
        self._interruption.end(broken_off)
        outputs: dict[int, Any] = super().update_from_output(scheduler_output, model_runner_output)
        if broken_off:
            self._take_back(scheduler_output.num_scheduled_tokens)
        if self._lockstep:
            records = getattr(model_runner_output, "polyad_fusion", {})
            for of_client in outputs.values():
                of_client.outputs = [one for one in of_client.outputs if self._reported(one, records)]
            for group in self._lockstep.ended():
                self._end(group, outputs)
        return outputs

    @cached_property
    def _interruptible(self) -> bool:
        """Whether one worker computes every step, whose layers leave nothing behind that a second time would change."""
        config, groups = self.vllm_config, self.kv_cache_config.kv_cache_groups
        alone = (
            config.parallel_config.world_size_across_dp == 1 and self.connector is None and self.ec_connector is None
        )
        in_turns = not config.scheduler_config.async_scheduling and not self.num_spec_tokens
        plain = len(groups) == 1 and type(groups[0].kv_cache_spec) is FullAttentionSpec
        return self._tokens_cost_time and alone and in_turns and plain

    def _mark(self, scheduled: Any) -> Mark | None:
        """For the worker, if this step may be broken off: nothing of it is in a cache before it is computed."""
        if not self._interruptible or self._lockstep:
            return None
        tokens = scheduled.num_scheduled_tokens
        running = [self.requests[name] for name in tokens]
        if not running or any(self._leaves_something(request, tokens[request.request_id]) for request in running):
            return None
        return self._interruption.begin(running, self.max_num_active_reqs, scheduled.total_num_scheduled_tokens)

    def _leaves_something(self, request: Request, tokens: int) -> bool:
        """Whether its tokens of this step, which are counted already, fill a block, or use up an image."""
        after = request.num_computed_tokens
        fills = after // self.block_size > (after - tokens) // self.block_size
        return request.has_encoder_inputs or (fills and self.kv_cache_manager.enable_caching)

    def _take_back(self, scheduled: dict[str, int]) -> None:
        """These tokens were not computed after all."""
        for name, tokens in scheduled.items():
            request = self.requests.get(name)
            if request is not None and request.status == RequestStatus.RUNNING:
                request.num_computed_tokens -= tokens
                request.num_output_placeholders -= not request.is_prefill_chunk

    def _update_request_with_output(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        tokens, stopped = super()._update_request_with_output(request, *args, **kwargs)
        self._fair_share.produced(claim_of(request), len(tokens))
        return tokens, stopped

    def _handle_blocked_waiting_request(self, request: Request) -> bool:
        ready: bool = super()._handle_blocked_waiting_request(request)
        if not self._lockstep:
            return ready and self._admission.admits(self._demand(request))
        admitted = ready and self._groups.fits(request) and self._admission.admits(self._demand(request))
        if admitted:
            self._groups.admit(request)
        return admitted

    def _reserve_prefill_lookahead(self, request: Request, num_computed_tokens: int, num_new_tokens: int) -> int:
        if request.request_id in self._sitting_out:
            return 0
        new: int = super()._reserve_prefill_lookahead(request, num_computed_tokens, num_new_tokens)
        new = self._lockstep.hold(request, num_computed_tokens, new)
        self._groups.spend(new)
        return new

    def _get_local_prefix_cache_hit(self, request: Request) -> Any:
        blocks, hit, boundary, diverged = super()._get_local_prefix_cache_hit(request)
        if hit and hit >= request.num_tokens - 1 and self._lockstep.group_of(request) is not None:
            # A member that has nothing left but its last token could not begin before its group samples.
            hit -= self.block_size
            blocks = self.kv_cache_manager.truncate_computed_blocks(blocks, hit)
        return blocks, hit, boundary, diverged

    def _demand(self, request: Request) -> Demand:
        group = self._lockstep.group_of(request)
        members = group.members if group is not None else (request,)
        versions = [weights_of(member).keys() for member in members]
        return Demand(request.arrival_time, frozenset().union(*versions), self._turn(request))

    def _turn(self, request: Request) -> int:
        group = self._lockstep.group_of(request)
        members = group.members if group is not None else (request,)
        return min(self._turns.get(member.request_id, 0) for member in members)

    def _reported(self, output: Any, records: dict[str, list[float]]) -> bool:
        """Whether the front end is to hear of this; what it hears of a leader has the record of its fusion."""
        if self._lockstep.is_follower(output.request_id):
            return False
        group = self._lockstep.groups.get(output.request_id)
        if group is not None and output.request_id in records:
            told = {"trace": group.fusion.trace, "record": records[output.request_id], "waited": group.waited}
            # vLLM carries this field from the engine to the front end, where it is taken out again.
            output.kv_transfer_params = {**(output.kv_transfer_params or {}), KEY: told}
            group.waited = 0
        return True

    def _end(self, group: FusionGroup, outputs: dict[int, Any]) -> None:
        status = RequestStatus.FINISHED_ERROR if group.broken else RequestStatus.FINISHED_ABORTED
        left = [member.request_id for member in group.members if not member.is_finished()]
        ended = super().finish_requests(left, status)
        if group.leader in ended:
            of_client = outputs.setdefault(group.leader.client_index, EngineCoreOutputs())
            failure = EngineCoreOutput(group.leader.request_id, [], finish_reason=FinishReason.ERROR)
            of_client.outputs = [*of_client.outputs, failure]
