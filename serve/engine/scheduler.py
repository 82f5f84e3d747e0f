"""vLLM's scheduler, which admits requests by the versions that their compositions need."""

import time
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.request import Request

from polyad.serve.engine.composition import weights
from polyad.serve.engine.slot_admission import Demand, SlotAdmission


def _demand(request: Request) -> Demand:
    return Demand(request.arrival_time, weights(request.lora_request).keys())


class SlotScheduler(AsyncScheduler):
    """vLLM would count the different adapters of a batch; here a batch may hold any number of different compositions
    of as many versions as there are slots."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        slot_wait_s = float(self.vllm_config.additional_config["polyad"]["slot_wait_s"])
        self._admission = SlotAdmission(self.vllm_config.lora_config.max_loras, slot_wait_s)
        # Or vLLM would admit by its own count.
        self.lora_config = None

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        if self.waiting or self.kv_holding_waiting:
            self._admission.begin(time.time(), map(_demand, self.running), map(_demand, self.waiting))
        return super().schedule(*args, **kwargs)

    def _handle_blocked_waiting_request(self, request: Request) -> bool:
        ready: bool = super()._handle_blocked_waiting_request(request)
        return ready and self._admission.admits(_demand(request))
