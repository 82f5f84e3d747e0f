"""Runs and the leases on adapters, in Redis. A run's state is written only by who holds its adapter's lease."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from polyad.adapters_store.errors import Conflict, UnknownRun
from polyad.adapters_store.feedback.keys import Keys
from polyad.adapters_store.feedback.records import Run, Trigger
from polyad.adapters_store.feedback.scripting import Scripting
from polyad.adapters_store.feedback.store import GROUP

MAX_TRIES = 3
MAX_ENDED = 100
_DECISIONS_S = 30 * 86_400


class Fenced(Exception):
    """The lease was lost, to time or to another worker: whatever this one still does must not count."""


@dataclass(frozen=True, slots=True)
class Lease:
    tenant: str
    adapter: str
    token: int


@dataclass(frozen=True, slots=True)
class Ending:
    """What becomes of the events at the end of a run: `used` ones leave the queue, `poison` ones (entry, reason) go to
    the dead letters, `failed` ones stay, but only for MAX_TRIES runs. `remember` are examples for later runs (id,
    JSON), `forget` ids of such that are over. For `rest_s` seconds none but who asks for it begins the next run."""

    used: Sequence[str] = ()
    poison: Sequence[tuple[str, str]] = ()
    failed: Sequence[str] = ()
    remember: Sequence[tuple[str, str]] = ()
    forget: Sequence[str] = ()
    rest_s: float = 0.0


class Runs:
    """All tenants' runs. Every method raises RegistryUnavailable when Redis is away.

    Of an adapter's ended runs the newest MAX_ENDED that made a version are kept, and as many of those that made none:
    a policy that fails again and again neither fills Redis nor pushes out where the versions came from.
    """

    def __init__(self, url: str, namespace: str = "polyad") -> None:
        self._redis = Scripting(url)
        self._keys = Keys(namespace)

    async def close(self) -> None:
        await self._redis.close()

    async def begin(self, tenant: str, adapter: str, trigger: Trigger) -> Run:
        """A new run, queued for the next worker. Raises Conflict while another one of the adapter is open."""
        now = time.time()
        run = Run(
            id=f"run-{uuid4().hex[:16]}",
            tenant=tenant,
            adapter=adapter,
            trigger=trigger,
            state="queued",
            created=now,
            changed=now,
            history=((now, "queued"),),
        )
        keys = [self._adapter_key("active", run), self._keys.run(run.id), self._keys.runs(tenant), self._keys.open]
        open_run = await self._redis.run("begin", keys, run.id, run.model_dump_json(), now, f"{tenant}/{adapter}")
        if open_run:
            raise Conflict("adapter", f"{adapter!r} has an open run already: {open_run}")
        return run

    async def active(self, tenant: str, adapter: str) -> Run | None:
        """The adapter's open run."""
        id = await self._redis.ask(self._redis.client.get(self._keys.of_adapter("active", tenant, adapter)))
        return None if id is None else await self.run(tenant, id)

    async def open(self) -> set[tuple[str, str]]:
        """The tenants and adapters with an open run, but for runs that a release without this list began."""
        names = await self._redis.ask(self._redis.client.smembers(self._keys.open))
        return {(tenant, adapter) for tenant, _, adapter in (name.partition("/") for name in names)}

    async def run(self, tenant: str, id: str) -> Run:
        """Raises UnknownRun."""
        text = await self._redis.ask(self._redis.client.get(self._keys.run(id)))
        run = None if text is None else Run.model_validate_json(text)
        if run is None or run.tenant != tenant:
            raise UnknownRun("run", id, "does not exist")
        return run

    async def is_open(self, id: str) -> bool:
        """Whether there is such a run, of whatever tenant, and it is not over."""
        text = await self._redis.ask(self._redis.client.get(self._keys.run(id)))
        return text is not None and not Run.model_validate_json(text).is_over

    async def page(self, tenant: str, before: float | None, limit: int) -> list[Run]:
        """Runs of a tenant, newest first, created before the given time."""
        newest = f"({before!r}" if before is not None else "+inf"
        key = self._keys.runs(tenant)
        ids = await self._redis.ask(self._redis.client.zrevrangebyscore(key, newest, "-inf", start=0, num=limit))
        texts = [await self._redis.ask(self._redis.client.get(self._keys.run(id))) for id in ids]
        # One that is too old may go between the two questions.
        return [Run.model_validate_json(text) for text in texts if text is not None]

    async def rests(self, tenant: str, adapter: str) -> bool:
        """Whether an ended run let the adapter rest. One that ends after `active` said None is seen."""
        key = self._keys.of_adapter("rest", tenant, adapter)
        return bool(await self._redis.ask(self._redis.client.exists(key)))

    async def cancel(self, run: Run) -> None:
        """Ask the worker to end an open run. Raises Conflict for one that has ended."""
        await self._order(run, "cancel")

    async def decide(self, run: Run, approved: bool) -> None:
        """Say whether a run that waits for a person goes on. Raises Conflict for one that does not wait."""
        if run.state != "waiting":
            raise Conflict("run", f"{run.id} is {run.state}, not waiting")
        await self._order(run, "approve" if approved else "reject")

    async def order(self, run: Run) -> str | None:
        """What a person ordered for the open run: cancel, approve or reject."""
        found: Any = await self._redis.ask(self._redis.client.get(self._adapter_key("order", run)))
        id, _, order = (found or "").partition(":")
        return order if id == run.id else None

    async def lease(self, tenant: str, adapter: str, seconds: float) -> Lease | None:
        """The lease on an adapter, or None while somebody has it."""
        keys = [self._keys.of_adapter("lease", tenant, adapter), self._keys.fence]
        token = int(await self._redis.run("lease", keys, int(seconds * 1000)))
        return Lease(tenant, adapter, token) if token else None

    async def renew(self, lease: Lease, seconds: float) -> None:
        """Hold it on; with 0 seconds, give it back. Raises Fenced if it was lost."""
        key = self._keys.of_adapter("lease", lease.tenant, lease.adapter)
        if not await self._redis.run("renew", [key], lease.token, int(seconds * 1000)) and seconds:
            raise Fenced(f"the lease on adapter {lease.adapter!r} was lost")

    async def save(self, lease: Lease, run: Run, ending: Ending | None = None) -> Run:
        """Write the state of the open run; with an ending, end it, in one step. Raises Fenced."""
        if (ending is not None) != run.is_over:
            raise ValueError("a run ends with an ending, and only then")
        ended = "fruitless" if run.version is None else "fruitful"
        parts = ("lease", "run", "active", "events", "dead", "tries", "order", "memory", "rest", ended)
        keys = [self._keys.run(run.id) if part == "run" else self._adapter_key(part, run) for part in parts]
        keys += [self._keys.open, self._keys.runs(run.tenant)]
        request = json.dumps(self._request(run, ending or Ending()))
        answer = await self._redis.run("save", keys, lease.token, request, run.model_dump_json())
        if answer != "ok":
            raise Fenced(f"run {run.id} is no longer this worker's")
        return run

    async def keep_decisions(self, run: Run, decisions: Sequence[dict[str, Any]]) -> None:
        """What was decided for each example, and why; no text of any."""
        text = json.dumps(list(decisions))
        await self._redis.ask(self._redis.client.set(self._keys.decisions(run.id), text, ex=_DECISIONS_S))

    async def decisions(self, run: Run) -> list[dict[str, Any]]:
        """The decisions of a run; none once they are too old."""
        text = await self._redis.ask(self._redis.client.get(self._keys.decisions(run.id)))
        found: list[dict[str, Any]] = json.loads(text or "[]")
        return found

    async def _order(self, run: Run, order: str) -> None:
        if run.is_over:
            raise Conflict("run", f"{run.id} has ended: {run.state}")
        await self._redis.ask(self._redis.client.set(self._adapter_key("order", run), f"{run.id}:{order}"))

    def _request(self, run: Run, ending: Ending) -> dict[str, Any]:
        return {
            "id": run.id,
            "adapter": f"{run.tenant}/{run.adapter}",
            "over": run.is_over,
            "group": GROUP,
            "reason": run.reason,
            "max_tries": MAX_TRIES,
            "kept": MAX_ENDED,
            "run_prefix": self._keys.run(""),
            "decisions_prefix": self._keys.decisions(""),
            "rest_ms": round(ending.rest_s * 1000),
            **{name: list(getattr(ending, name)) for name in ("used", "poison", "failed", "remember", "forget")},
        }

    def _adapter_key(self, part: str, run: Run) -> str:
        return self._keys.of_adapter(part, run.tenant, run.adapter)
