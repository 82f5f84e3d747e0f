"""Everything that clients do to a server, at random and all at once, and what came of it."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.fixtures.adapters import CONFIG, WEIGHTS

ADAPTERS = 24
PROMPT = "The lighthouse keeper said"
# An adapter that nobody touches.
PINNED = "pinned"
SERVED = frozenset({"200", "201", "left"})
REFUSED = frozenset({"404", "409"})
_TOLD = frozenset({"503", "stream error", "cut"})


@dataclass
class Record:
    """What happened, by what was asked and what came of it; `calm` is whether nothing killed was away just then."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    calm_failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    away: bool = False

    def note(self, asked: str, outcome: str, was_away: bool = False) -> None:
        self.outcomes[asked, outcome] += 1
        failed = outcome not in (*SERVED, *REFUSED)
        if failed and not (outcome in _TOLD and (self.away or was_away)):
            self.calm_failures[asked, outcome] += 1


class Adapters:
    """The adapters that come, change and go, and what of them was acknowledged."""

    def __init__(self, http: httpx.AsyncClient, files: Sequence[Path], record: Record) -> None:
        self._http = http
        self._files = [content(one) for one in files]
        self._record = record
        self.versions: dict[str, list[str]] = {}
        # Names with a write on its way, or one of which nobody knows whether it was made.
        self._busy: set[str] = set()
        self.unsure: set[str] = set()

    async def push(self, name: str) -> None:
        async with Only(self._busy, name) as free:
            if not free:
                return
            send = sending(self._http, name, random.choice(self._files))
            answer = await attempt(self._record, "push", send)
            if answer is not None and answer.is_success:
                self.versions.setdefault(name, []).append(answer.json()["version"])
            elif answer is None or answer.status_code >= 500:
                self.unsure.add(name)

    async def promote(self, name: str) -> None:
        async with Only(self._busy, name) as free:
            if not free or not self.versions.get(name):
                return
            body = {"version": random.choice(self.versions[name])}
            path = f"/v1/adapters/{name}/aliases/production"
            await attempt(self._record, "promote", lambda: self._http.put(path, json=body))

    async def delete(self, name: str) -> None:
        async with Only(self._busy, name) as free:
            if not free or name not in self.versions:
                return
            answer = await attempt(self._record, "delete", lambda: self._http.delete(f"/v1/adapters/{name}"))
            if answer is not None and answer.is_success:
                del self.versions[name]
                self.unsure.discard(name)
            elif answer is None or answer.status_code >= 500:
                self.unsure.add(name)

    async def lost(self) -> list[str]:
        """Acknowledged versions that are not there; names whose last write was cut off are left out."""
        found = []
        for name, versions in self.versions.items():
            if name in self.unsure:
                continue
            listed = (await self._http.get(f"/v1/adapters/{name}/versions?limit=1000")).json()["data"]
            there = {one["version"] for one in listed}
            found += [f"{name}@{version}" for version in versions if version not in there]
        return found


class Only:
    """Whether nobody else writes to this name; if so, nobody does meanwhile."""

    def __init__(self, busy: set[str], name: str) -> None:
        self._busy, self._name = busy, name

    async def __aenter__(self) -> bool:
        self._free = self._name not in self._busy
        self._busy.add(self._name)
        return self._free

    async def __aexit__(self, *error: object) -> None:
        if self._free:
            self._busy.discard(self._name)


def content(folder: Path) -> dict[str, bytes]:
    return {"config": (folder / CONFIG).read_bytes(), "weights": (folder / WEIGHTS).read_bytes()}


def sending(http: httpx.AsyncClient, name: str, files: dict[str, bytes]) -> Callable[[], Awaitable[httpx.Response]]:
    return lambda: http.post("/v1/adapters", data={"name": name, "alias": "production"}, files=files)


async def attempt(record: Record, asked: str, send: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response | None:
    """One request, noted; None if the connection was cut."""
    away = record.away
    try:
        answer = await send()
    except httpx.HTTPError as error:
        record.note(asked, "cut" if isinstance(error, httpx.TransportError) else repr(error), away)
        return None
    record.note(asked, str(answer.status_code), away)
    return answer


class Client:
    """Asks without pause for whatever there is."""

    def __init__(self, http: httpx.AsyncClient, base: str, adapters: Adapters, record: Record) -> None:
        self._http = http
        self._base = base
        self._adapters = adapters
        self._record = record

    async def ask(self) -> None:
        names = list(self._adapters.versions) or [PINNED]
        one, two, three = (random.choice(names) for _ in range(3))
        asked, model = random.choice(
            [
                ("adapter", one),
                ("adapter", one),
                ("blend", f"{one}*0.5 + {two}*0.25 - {three}*0.1"),
                ("fusion", f"fuse({one}, {two})"),
                ("base", self._base),
                ("nobody's", f"nobody-{random.randrange(10**9)}"),
            ]
        )
        body = {"model": model, "prompt": PROMPT, "max_tokens": random.choice((4, 16, 48)), "ignore_eos": True}
        if random.random() < 0.5:
            await self._stream(asked, body, leave=random.random() < 0.5)
        else:
            await attempt(self._record, asked, lambda: self._http.post("/v1/completions", json=body))
        if self._record.away:
            await asyncio.sleep(0.5)

    async def _stream(self, asked: str, body: dict[str, Any], leave: bool) -> None:
        away = self._record.away
        try:
            async with self._http.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
                outcome = await self._read(answer, random.randrange(1, 12) if leave else 10**9)
        except httpx.TransportError:
            outcome = "cut"
        self._record.note(f"{asked}, streamed", outcome, away)

    @staticmethod
    async def _read(answer: httpx.Response, tokens: int) -> str:
        if not answer.is_success:
            await answer.aread()
            return str(answer.status_code)
        done, failed, taken = False, False, 0
        async for line in lines(answer):
            done |= line == b"data: [DONE]"
            failed |= line.startswith(b"data: {") and "error" in json.loads(line.removeprefix(b"data: "))
            taken += line.startswith(b"data: ")
            if taken >= tokens:
                return "left"
        return "stream error" if failed else "200" if done else "cut"


async def lines(answer: httpx.Response) -> AsyncIterator[bytes]:
    """Its whole lines. httpx also ends lines where a model says a separator of Unicode's."""
    rest = b""
    async for piece in answer.aiter_bytes():
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r")


async def change(adapters: Adapters) -> None:
    """Push, promote, delete: one after another, at random."""
    while True:
        name = f"adapter-{random.randrange(ADAPTERS)}"
        act = random.choices((adapters.push, adapters.promote, adapters.delete), (5, 4, 2))[0]
        await act(name)
        await asyncio.sleep(random.uniform(0.2, 1.5))
