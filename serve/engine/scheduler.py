"""Which waiting request gets a slot when there are more versions than slots: fair ageing."""

import time
from collections import Counter
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.request import Request


def _engine_id(request: Request) -> int | None:
    return request.lora_request.lora_int_id if request.lora_request else None


class SlotScheduler(AsyncScheduler):
    """vLLM's scheduler, which lets a version that keeps getting requests hold its slot for ever, with a bound to that.

    Once a request has waited for a slot longer than `slot_wait_s`, one slot is closed for it: no request that came
    later joins the version there, so that slot falls free when its running requests end. The least busy slot is
    closed, one per starved version; all others go on as before.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._slot_wait_s = float(self.vllm_config.additional_config["polyad"]["slot_wait_s"])
        self._closed: dict[int, float] = {}

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        self._closed = self._slots_to_close(time.time())
        return super().schedule(*args, **kwargs)

    def _handle_blocked_waiting_request(self, request: Request) -> bool:
        starved_since = self._closed.get(_engine_id(request) or 0)
        if starved_since is not None and request.arrival_time > starved_since:
            return False
        ready: bool = super()._handle_blocked_waiting_request(request)
        return ready

    def _slots_to_close(self, now: float) -> dict[int, float]:
        """Engine ids to close, each with the arrival time of the request that it gives way to."""
        if not self.waiting or self.lora_config is None:
            return {}
        running = Counter(engine_id for request in self.running if (engine_id := _engine_id(request)))
        free = self.lora_config.max_loras - len(running)
        if free and not self._closed:
            return {}
        starved: dict[int, float] = {}
        for request in self.waiting:
            engine_id = _engine_id(request)
            if engine_id and engine_id not in running and now - request.arrival_time > self._slot_wait_s:
                starved[engine_id] = min(request.arrival_time, starved.get(engine_id, request.arrival_time))
        # A slot that is closed already stays closed: changing our mind would drain two slots for one request.
        victims = sorted(running, key=lambda engine_id: (engine_id not in self._closed, running[engine_id]))
        # Those who have waited longest get the free slots, and need no other.
        return dict(zip(victims, sorted(starved.values())[free:], strict=False))
