"""How vLLM's processes wait for each other on a CPU, where whoever waits takes a core from whoever computes."""

import time
from typing import Any

import zmq
from vllm.distributed.device_communicators.shm_broadcast import SpinCondition

_BUSY_S = 1.0
_LOOK_MS = 1


class Waiting(SpinCondition):
    """Waits for the notice of a message, where vLLM asks again and again, for a second after the last one.

    That takes a whole core: the sibling of the one that computes, or all that a worker which learns would have, because
    the kernel gives hardly any time to a process of low priority beside one that yields all the time. Notices that come
    close together may be lost, so it looks each millisecond all the same; a step takes tens of them.
    """

    def __init__(
        self, is_reader: bool, context: "zmq.Context[Any]", notify_address: str, busy_loop_s: float = 0
    ) -> None:
        super().__init__(is_reader, context, notify_address, 0)

    def wait(self, timeout_ms: int | None = None) -> None:
        busy = time.monotonic() <= self.last_read + _BUSY_S
        super().wait(_LOOK_MS if busy else timeout_ms)
