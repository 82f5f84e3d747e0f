"""vLLM's scheduler, which admits requests by fair share, and by the versions that their compositions need."""

import time
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.request import Request

from polyad.serve.engine.composition import weights
from polyad.serve.engine.fair_share import FairShare
from polyad.serve.engine.ownership import claim_of
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
        # Or vLLM would admit by its own count.
        self.lora_config = None

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        self._line_up()
        if self.waiting or self.kv_holding_waiting:
            self._admission.begin(time.time(), map(self._demand, self.running), map(self._demand, self.waiting))
        scheduled = super().schedule(*args, **kwargs)
        for new in scheduled.scheduled_new_reqs:
            self._fair_share.admitted(claim_of(self.requests[new.req_id]))
        return scheduled

    def _line_up(self) -> None:
        line = self._fair_share.order(list(self.waiting), claim_of)
        self.waiting.clear()
        self.waiting.extend(line)
        self._turns = {request.request_id: turn for turn, request in enumerate(line)}

    def _demand(self, request: Request) -> Demand:
        turn = self._turns.get(request.request_id, 0)
        return Demand(request.arrival_time, weights(request.lora_request).keys(), turn)

    def _handle_blocked_waiting_request(self, request: Request) -> bool:
        ready: bool = super()._handle_blocked_waiting_request(request)
        return ready and self._admission.admits(self._demand(request))

    def _update_request_with_output(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        tokens, stopped = super()._update_request_with_output(request, *args, **kwargs)
        self._fair_share.produced(claim_of(request), len(tokens))
        return tokens, stopped
