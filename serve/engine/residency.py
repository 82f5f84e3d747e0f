"""Which versions are in the engine's host memory, and the leases that keep them there while requests run."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from vllm.lora.request import LoRARequest

from polyad.adapters_store.blobs import BlobStore
from polyad.adapters_store.errors import EngineUnavailable, LoadFailed, PolyadError
from polyad.adapters_store.registry import Version
from polyad.serve.compose import Plan
from polyad.serve.engine import metrics
from polyad.serve.engine.giving_way import first_to_give_way
from polyad.serve.engine.host import FAILED, READY
from polyad.serve.engine.identity import composed, new_id
from polyad.serve.engine.telemetry import Telemetry
from polyad.serve.service.access import current_caller

logger = logging.getLogger(__name__)

_FIRST_POLL_S = 0.002
_LAST_POLL_S = 0.05

Key = tuple[str, str, str]


class Workers(Protocol):
    """The engine's workers, seen from the front end; an answer comes from each."""

    async def collective_rpc(self, method: str, *, args: tuple[object, ...]) -> list[object]: ...


@dataclass(eq=False)
class Resident:
    """One version in host memory, or on its way there. `tenant` is the one that used it last."""

    version: Version
    engine_id: int
    ready: asyncio.Future[None]
    tenant: str
    leases: int = 0
    revoked: bool = False
    loading: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def loaded(self) -> bool:
        return self.ready.done() and not self.ready.cancelled() and self.ready.exception() is None


def _key(version: Version) -> Key:
    return version.tenant, version.adapter, version.digest


class _Compositions:
    """The ids of the compositions that requests use now: one for all requests with the same versions and weights."""

    def __init__(self) -> None:
        self._used: dict[tuple[object, ...], tuple[int, int]] = {}

    @contextmanager
    def id_of(self, plan: Plan, engine_ids: Sequence[int]) -> Iterator[int]:
        if [term.weight for term in plan.terms] == [1]:
            yield engine_ids[0]
            return
        key = tuple((engine_id, term.weight) for engine_id, term in zip(engine_ids, plan.terms, strict=True))
        composition_id, users = self._used.get(key) or (new_id(), 0)
        self._used[key] = composition_id, users + 1
        try:
            yield composition_id
        finally:
            composition_id, users = self._used.pop(key)
            if users > 1:
                self._used[key] = composition_id, users - 1


class Residency:
    """The host cache. Everything here runs in the server's event loop."""

    def __init__(
        self, blobs: BlobStore, host_cache_bytes: int, load_timeout_s: float, telemetry: Telemetry | None = None
    ) -> None:
        self._blobs = blobs
        self._budget = host_cache_bytes
        self._load_timeout_s = load_timeout_s
        self._telemetry = telemetry or Telemetry(0)
        self._workers: Workers | None = None
        self._residents: dict[Key, Resident] = {}
        self._bytes = 0
        self._compositions = _Compositions()
        self._room = asyncio.Lock()
        self._released = asyncio.Event()

    @property
    def residents(self) -> list[Resident]:
        """What is in host memory, least recently used first."""
        return list(self._residents.values())

    def attach(self, workers: Workers | None) -> None:
        """Serve a new engine, whose host memory is empty; or none, while the engine is away."""
        self._workers = workers
        lost = self.residents
        self._residents.clear()
        self._bytes = 0
        for entry in lost:
            if entry.loading and not entry.ready.done():
                entry.loading.cancel()
                # A task that is cancelled before its first step never runs, and could tell nobody.
                self._fail(entry, asyncio.CancelledError())
        self._released.set()
        self._report()

    @asynccontextmanager
    async def lease(self, plan: Plan) -> AsyncIterator[LoRARequest | None]:
        """Hold a plan's versions in host memory; yields what the engine knows it by, None for the base model alone.

        Raises LoadFailed, EngineUnavailable, or what the blob store raises.
        """
        async with self.lease_all((plan,)) as (resident,):
            yield resident

    @asynccontextmanager
    async def lease_all(self, plans: Sequence[Plan]) -> AsyncIterator[list[LoRARequest | None]]:
        """The same for several plans at once, each without a fusion: their versions come and go together."""
        versions = {_key(version): version for plan in plans for version in plan.versions}
        entries = await self._acquire(tuple(versions.values())) if versions else []
        try:
            for entry in entries:
                await asyncio.shield(entry.ready)
            engine_ids = {_key(entry.version): entry.engine_id for entry in entries}
            with ExitStack() as compositions:
                yield [self._composed(plan, engine_ids, compositions) for plan in plans]
        finally:
            self._release(entries)

    def _composed(self, plan: Plan, engine_ids: Mapping[Key, int], compositions: ExitStack) -> LoRARequest | None:
        if not plan.terms:
            return None
        ids = [engine_ids[_key(version)] for version in plan.versions]
        return composed(plan, compositions.enter_context(self._compositions.id_of(plan, ids)), ids)

    async def warm(self, plan: Plan) -> None:
        """Bring a plan's versions into host memory without using them; raises what `lease` raises."""
        async with self.lease(plan):
            pass

    def leased(self, version: Version) -> bool:
        """Whether a request that runs, or waits to run, uses the version."""
        entry = self._residents.get(_key(version))
        return entry is not None and entry.leases > 0

    def revoke(self, gone: Callable[[Version], bool]) -> None:
        """Free the versions that `gone` says do not exist any more: now, or when their last request ends."""
        for entry in [entry for entry in self._residents.values() if gone(entry.version)]:
            entry.revoked = True
            if not entry.leases and entry.ready.done():
                self._drop([entry])

    async def _acquire(self, versions: Sequence[Version]) -> list[Resident]:
        held = self._leased_if_all_are_here(versions)
        if held is None:
            async with self._room:
                held = await self._admit(versions)
        self._report()
        return held

    def _leased_if_all_are_here(self, versions: Sequence[Version]) -> list[Resident] | None:
        if any(_key(version) not in self._residents for version in versions):
            return None
        return [self._lease_of(version) for version in versions]

    def _lease_of(self, version: Version) -> Resident:
        """Lease what is here, which makes it the most recently used."""
        entry = self._residents[_key(version)] = self._residents.pop(_key(version))
        entry.leases += 1
        entry.tenant = current_caller.get().tenant
        return entry

    async def _admit(self, versions: Sequence[Version]) -> list[Resident]:
        """Lease what is here, and begin to load the rest once there is room for all of it.

        Only who holds the lock waits for room, and who waits for the lock holds nothing: so two plans never wait for
        each other.
        """
        self._check_fits(versions)
        here = [self._lease_of(version) for version in versions if _key(version) in self._residents]
        missing = [version for version in versions if _key(version) not in self._residents]
        try:
            await self._make_room(sum(version.size for version in missing))
            workers = self._workers
            if workers is None:
                raise EngineUnavailable("the engine is not running")
        except BaseException:
            self._release(here)
            raise
        begun = [self._begin(version, workers) for version in missing]
        held = {_key(entry.version): entry for entry in [*here, *begun]}
        return [held[_key(version)] for version in versions]

    def _check_fits(self, versions: Sequence[Version]) -> None:
        size = sum(version.size for version in versions)
        if size > self._budget:
            names = " + ".join(version.name for version in versions)
            raise LoadFailed(f"{names}: {size} bytes, host_cache_bytes allows {self._budget} for all")

    async def _make_room(self, size: int) -> None:
        while self._bytes + size > self._budget:
            idle = self._first_to_give_way(size)
            if idle is not None:
                metrics.evictions.inc()
                self._telemetry.evicted(idle.version)
                self._drop([idle])
                continue
            self._released.clear()
            await self._released.wait()

    def _first_to_give_way(self, size: int) -> Resident | None:
        held = Counter({current_caller.get().tenant: size})
        for entry in self._residents.values():
            held[entry.tenant] += entry.version.size
        idle = ((entry, entry.tenant) for entry in self._residents.values() if not entry.leases and entry.ready.done())
        return first_to_give_way(idle, held)

    def _begin(self, version: Version, workers: Workers) -> Resident:
        entry = Resident(version, new_id(), asyncio.get_running_loop().create_future(), current_caller.get().tenant, 1)
        entry.loading = asyncio.create_task(self._load(entry, workers))
        self._residents[_key(version)] = entry
        self._bytes += version.size
        return entry

    def _release(self, entries: Iterable[Resident]) -> None:
        for entry in entries:
            entry.leases -= 1
            if not entry.leases:
                self._released.set()
                if entry.revoked and entry.ready.done():
                    self._drop([entry])

    def _drop(self, entries: Iterable[Resident]) -> None:
        current = [entry for entry in entries if self._residents.get(_key(entry.version)) is entry]
        for entry in current:
            del self._residents[_key(entry.version)]
            self._bytes -= entry.version.size
        self._report()
        if current and self._workers is not None:
            engine_ids = [entry.engine_id for entry in current]
            task = asyncio.ensure_future(self._workers.collective_rpc("polyad_drop", args=(engine_ids,)))
            task.add_done_callback(_log_failure)

    async def _load(self, entry: Resident, workers: Workers) -> None:
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._load_timeout_s), self._blobs.lease(entry.version.digest) as path:
                await self._read_into(workers, entry, str(path))
        except BaseException as error:
            self._fail(entry, error)
            if not isinstance(error, Exception):
                raise
            return
        metrics.load_seconds.observe(time.monotonic() - started)
        self._telemetry.loaded(entry.version)
        entry.ready.set_result(None)
        if not entry.leases:
            self._released.set()
            if entry.revoked:
                self._drop([entry])

    async def _read_into(self, workers: Workers, entry: Resident, path: str) -> None:
        await _ask(workers, "polyad_load", entry.engine_id, path, entry.tenant)
        pause = _FIRST_POLL_S
        while True:
            states = await _ask(workers, "polyad_state", entry.engine_id)
            if all(state == READY for state in states):
                return
            for state in states:
                if isinstance(state, str) and state.startswith(FAILED):
                    raise LoadFailed(state.removeprefix(FAILED))
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LAST_POLL_S)

    def _fail(self, entry: Resident, error: BaseException) -> None:
        if entry.ready.done():
            return
        metrics.load_failures.inc()
        name = entry.version.name
        logger.error("could not load %s: %s: %s", name, type(error).__name__, error)
        self._drop([entry])
        self._released.set()
        entry.ready.set_exception(_as_ours(error, name, self._load_timeout_s))
        entry.ready.exception()  # a load that nobody waits for any more is no unhandled error

    def _report(self) -> None:
        metrics.resident_versions.set(len(self._residents))
        metrics.resident_bytes.set(self._bytes)


async def _ask(workers: Workers, method: str, *args: object) -> list[object]:
    try:
        return await workers.collective_rpc(method, args=args)
    except Exception as error:
        # What our methods cannot do is an answer of theirs: vLLM raises here, by many names, when a process is gone.
        message = f"the engine was lost while the adapter was loading ({type(error).__name__})"
        raise EngineUnavailable(message) from error


def _as_ours(error: BaseException, name: str, timeout_s: float) -> PolyadError:
    if isinstance(error, PolyadError):
        return error
    if isinstance(error, asyncio.CancelledError):
        return EngineUnavailable("the engine was lost while the adapter was loading")
    if isinstance(error, TimeoutError):
        return LoadFailed(f"{name} could not be loaded within load_timeout_s = {timeout_s:g} s")
    return LoadFailed(f"{name} could not be loaded: {type(error).__name__}")


def _log_failure(task: "asyncio.Future[list[object]]") -> None:
    if not task.cancelled() and (error := task.exception()):
        logger.warning("the engine did not free a version: %s", type(error).__name__)
