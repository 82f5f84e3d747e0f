"""Clients of the fleet's demo."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

ADAPTER, OTHER = "robot", "helpdesk"
CLIENTS = 2
ANSWER_S = 120.0
# Of clients beside something that needs the cores, too: a server that starts, a worker that trains.
REST_S = 1.0


def question(model: str) -> dict[str, Any]:
    """A short question to a model, whose answer is always the same."""
    messages = [{"role": "user", "content": "Do you eat?"}]
    return {"model": model, "messages": messages, "max_tokens": 4, "temperature": 0}


@dataclass
class Load:
    """Clients that ask one question again and again through the proxy, resting `pause_s` in between."""

    client: httpx.AsyncClient
    pause_s: float = 0.0
    seconds: list[float] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    _begun: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Load"]:
        """From the first answer to the end of the block."""
        stop = asyncio.Event()
        tasks = [asyncio.create_task(self._ask_until(stop)) for _ in range(CLIENTS)]
        try:
            await self._begun.wait()
            yield self
        finally:
            stop.set()
            await asyncio.gather(*tasks)

    async def _ask_until(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            began = time.monotonic()
            try:
                answer = await self.client.post("/v1/chat/completions", json=question(ADAPTER))
                if answer.status_code == httpx.codes.OK:
                    self.answered[answer.json()["model"]] += 1
                else:
                    self.errors.append(f"{answer.status_code} {answer.text[:200]}")
            except httpx.HTTPError as error:
                self.errors.append(f"{type(error).__name__}: {error}")
            self.seconds.append(time.monotonic() - began)
            self._begun.set()
            await asyncio.sleep(self.pause_s)

    def told(self) -> str:
        slowest = max(self.seconds, default=0)
        return f"{len(self.seconds)} requests, slowest {slowest:.1f} s, failed: {self.errors or 'none'}"
