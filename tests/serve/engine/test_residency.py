"""The host cache against workers that load when the test lets them, over a real blob store."""

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from vllm.lora.request import LoRARequest
from vllm.v1.engine.exceptions import EngineDeadError

from polyad.adapters_store.blobs import BlobStore
from polyad.adapters_store.errors import CorruptBlob, EngineUnavailable, LoadFailed, PolyadError
from polyad.adapters_store.registry import Version
from polyad.serve.compose import Plan
from polyad.serve.engine import metrics
from polyad.serve.engine.composition import weights
from polyad.serve.engine.residency import Residency
from polyad.serve.service import Caller, current_caller

SIZE = 100
TIMEOUT_S = 5.0


class FakeWorkers:
    """The host memory of one engine. Loads end at once, or when `open` is set; those of `broken` bytes fail."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.broken: set[bytes] = set()
        self.memory: dict[int, bytes] = {}
        self.loads: list[bytes] = []
        self.in_use: Counter[int] = Counter()

    def begin(self, request: LoRARequest) -> None:
        assert weights(request).keys() <= self.memory.keys(), "a request began before its versions were there"
        self.in_use.update(weights(request).keys())

    def end(self, request: LoRARequest) -> None:
        self.in_use.subtract(weights(request).keys())

    async def collective_rpc(self, method: str, *, args: tuple[object, ...]) -> list[object]:
        await asyncio.sleep(0)
        return [getattr(self, method)(*args)]

    def polyad_load(self, engine_id: int, path: str, owner: str) -> None:
        assert engine_id not in self.memory, "an engine id was used again"
        self.memory[engine_id] = Path(path).read_bytes()
        self.loads.append(self.memory[engine_id])

    def polyad_state(self, engine_id: int) -> str:
        if engine_id not in self.memory:
            return "failed: the engine was not asked to load it"
        if not self.open.is_set():
            return "loading"
        return "failed: torn to pieces" if self.memory[engine_id] in self.broken else "ready"

    def polyad_drop(self, engine_ids: list[int]) -> None:
        assert not any(self.in_use[engine_id] for engine_id in engine_ids), (
            "a version was dropped under a running request"
        )
        for engine_id in engine_ids:
            self.memory.pop(engine_id, None)

    @property
    def held(self) -> list[bytes]:
        return sorted(self.memory.values())


class Cache:
    """A residency with its surroundings."""

    def __init__(
        self, blobs: BlobStore, folder: Path, version: Callable[..., Version], budget: int, timeout_s: float
    ) -> None:
        self._version = version
        self.blobs = blobs
        self.workers = FakeWorkers()
        self.residency = Residency(blobs, budget, timeout_s)
        self.residency.attach(self.workers)
        self._folder = folder

    async def plan(self, name: str, *, size: int = SIZE, stored: bool = True) -> Plan:
        content = name.encode().ljust(size)
        digest = hashlib.sha256(content).hexdigest()
        if stored:
            file = self._folder / digest
            file.write_bytes(content)
            await self.blobs.put(file, digest)
        return Plan.single(self._version(name, digest=digest, size=size))

    async def use(self, plan: Plan, until: asyncio.Event | None = None) -> LoRARequest:
        async with self.residency.lease(plan) as request:
            assert request is not None
            self.workers.begin(request)
            try:
                if until is not None:
                    await until.wait()
            finally:
                self.workers.end(request)
            return request

    @property
    def names(self) -> list[str]:
        return [entry.version.adapter for entry in self.residency.residents]


@pytest.fixture
async def make(tmp_path: Path, make_version: Callable[..., Version]) -> Callable[..., Cache]:
    blobs = BlobStore(str(tmp_path / "blobs"), tmp_path / "cache", 0)
    await blobs.start()
    return lambda budget=3 * SIZE, timeout_s=TIMEOUT_S: Cache(blobs, tmp_path, make_version, budget, timeout_s)


@pytest.fixture
def cache(make: Callable[..., Cache]) -> Cache:
    return make()


def blend(*plans: Plan, weights: Sequence[float] = (0.7, 0.3)) -> Plan:
    versions = [version for plan in plans for version in plan.versions]
    return Plan.of(zip(versions, weights, strict=True))


async def settle(turns: int = 200) -> None:
    """Let everything run that can, also what waits for a thread."""
    for _ in range(turns):
        await asyncio.sleep(0.0005)


async def outcome(task: "asyncio.Task[LoRARequest]") -> LoRARequest | BaseException:
    return (await asyncio.gather(task, return_exceptions=True))[0]


def start(cache: Cache, plan: Plan, until: asyncio.Event | None = None) -> "asyncio.Task[LoRARequest]":
    return asyncio.create_task(cache.use(plan, until))


async def test_concurrent_requests_load_a_version_once_and_share_its_identity(cache: Cache) -> None:
    plan = await cache.plan("one")
    cache.workers.open.clear()
    tasks = [start(cache, plan) for _ in range(20)]
    await settle()
    assert not any(task.done() for task in tasks)
    cache.workers.open.set()
    requests = await asyncio.gather(*tasks)
    assert len({request.lora_int_id for request in requests}) == 1
    assert cache.workers.loads == [b"one".ljust(SIZE)]


async def test_identity_holds_the_digest_and_no_id_is_used_again(cache: Cache) -> None:
    plans = [await cache.plan(name) for name in "abcd"]
    requests = [await cache.use(plan) for plan in (*plans, plans[0])]
    for plan, request in zip((*plans, plans[0]), requests, strict=True):
        assert plan.key in request.lora_name
        assert plan.key in request.lora_path
    assert len({request.lora_int_id for request in requests}) == len(requests)
    assert requests[0].lora_name == requests[4].lora_name


async def test_the_least_recently_used_version_is_evicted(cache: Cache) -> None:
    plans = {name: await cache.plan(name) for name in "abcd"}
    evictions = metrics.evictions._value.get()
    for name in "abcad":
        await cache.use(plans[name])
    await settle()
    assert cache.names == ["c", "a", "d"]
    assert cache.workers.held == sorted(name.encode().ljust(SIZE) for name in "cad")
    assert metrics.evictions._value.get() - evictions == 1
    assert metrics.resident_bytes._value.get() == 3 * SIZE


async def test_one_large_version_evicts_as_many_as_it_needs(cache: Cache) -> None:
    for name in "abc":
        await cache.use(await cache.plan(name))
    await cache.use(await cache.plan("large", size=2 * SIZE))
    assert cache.names == ["c", "large"]


async def test_leased_versions_stay_and_requests_for_others_are_served_in_order(cache: Cache) -> None:
    ends = [asyncio.Event() for _ in range(3)]
    holders = [start(cache, await cache.plan(name), end) for name, end in zip("xyz", ends, strict=True)]
    await settle()
    served: list[str] = []

    async def note(name: str, plan: Plan, end: asyncio.Event) -> None:
        async with cache.residency.lease(plan):
            served.append(name)
            await end.wait()

    plans = [await cache.plan(name) for name in "abc"]
    done = asyncio.Event()
    waiting = []
    for name, plan in zip("abc", plans, strict=True):
        waiting.append(asyncio.create_task(note(name, plan, done)))
        await asyncio.sleep(0)
    await settle()
    assert served == []
    assert cache.names == ["x", "y", "z"]
    for count, end in enumerate(ends, start=1):
        end.set()
        await settle()
        assert served == ["a", "b", "c"][:count]
    done.set()
    await asyncio.gather(*holders, *waiting)


async def test_resident_versions_are_used_while_another_waits_for_room(cache: Cache) -> None:
    end = asyncio.Event()
    plans = [await cache.plan(name) for name in "xyz"]
    holders = [start(cache, plan, end) for plan in plans]
    await settle()
    waiting = start(cache, await cache.plan("a"))
    await settle()
    assert (await asyncio.wait_for(cache.use(plans[0]), 1)).lora_name.startswith("x@v1")
    assert not waiting.done()
    end.set()
    await asyncio.gather(*holders, waiting)


async def test_room_that_a_given_up_load_leaves_is_taken(make: Callable[..., Cache]) -> None:
    """The only user goes away while its version loads: the version is free once it is loaded, and somebody waits."""
    cache = make(budget=SIZE)
    cache.workers.open.clear()
    given_up = start(cache, await cache.plan("a"))
    await settle()
    waiting = start(cache, await cache.plan("b"))
    await settle()
    given_up.cancel()
    await settle()
    cache.workers.open.set()
    await asyncio.wait_for(waiting, 2)
    assert cache.names == ["b"]


async def test_version_larger_than_the_whole_cache_is_refused_at_once(cache: Cache) -> None:
    with pytest.raises(LoadFailed, match=r"huge@v1: 301 bytes, host_cache_bytes allows 300"):
        await cache.use(await cache.plan("huge", size=3 * SIZE + 1))
    assert cache.names == []


async def test_failed_load_reaches_all_who_wait_and_the_next_request_tries_again(cache: Cache) -> None:
    plan = await cache.plan("one")
    cache.workers.broken.add(b"one".ljust(SIZE))
    cache.workers.open.clear()
    failures = metrics.load_failures._value.get()
    tasks = [start(cache, plan) for _ in range(5)]
    await settle()
    cache.workers.open.set()
    for task in tasks:
        error = await outcome(task)
        assert isinstance(error, LoadFailed)
        assert "torn to pieces" in str(error)
    assert metrics.load_failures._value.get() - failures == 1
    assert not cache.residency.leased(plan.versions[0])
    cache.workers.broken.clear()
    await cache.use(plan)
    assert len(cache.workers.loads) == 2
    assert len(cache.workers.memory) == 1


async def test_failed_load_makes_room_for_who_waits(make: Callable[..., Cache]) -> None:
    cache = make(budget=SIZE)
    cache.workers.broken.add(b"a".ljust(SIZE))
    cache.workers.open.clear()
    failing = start(cache, await cache.plan("a"))
    await settle()
    waiting = start(cache, await cache.plan("b"))
    await settle()
    cache.workers.open.set()
    assert isinstance(await outcome(failing), LoadFailed)
    await asyncio.wait_for(waiting, 2)


@pytest.mark.parametrize("method", ["polyad_load", "polyad_state"])
@pytest.mark.parametrize("lost", [EngineDeadError(), Exception("Call to collective_rpc method failed")], ids=repr)
async def test_engine_that_dies_during_a_load_is_away_and_not_the_adapters_fault(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, method: str, lost: Exception
) -> None:
    def die(*_: object) -> None:
        raise lost

    plan = await cache.plan("one")
    with monkeypatch.context() as dead:
        dead.setattr(cache.workers, method, die)
        with pytest.raises(EngineUnavailable, match=rf"lost while the adapter was loading \({type(lost).__name__}\)"):
            await cache.use(plan)
    assert cache.names == []
    cache.residency.attach(FakeWorkers())
    async with cache.residency.lease(plan) as request:
        assert request is not None


async def test_lost_bytes_are_the_blob_stores_error(cache: Cache) -> None:
    with pytest.raises(CorruptBlob, match="is missing"):
        await cache.use(await cache.plan("lost", stored=False))
    assert cache.names == []


async def test_slow_load_ends_with_the_setting_that_bounds_it(make: Callable[..., Cache]) -> None:
    cache = make(timeout_s=0.05)
    cache.workers.open.clear()
    plan = await cache.plan("slow")
    with pytest.raises(LoadFailed, match=r"slow@v1 could not be loaded within load_timeout_s = 0\.05 s"):
        await cache.use(plan)
    await settle()
    assert cache.workers.memory == {}
    cache.workers.open.set()
    await cache.use(plan)


async def test_one_waiter_that_goes_away_does_not_end_the_load_for_the_others(cache: Cache) -> None:
    plan = await cache.plan("one")
    cache.workers.open.clear()
    first, second = start(cache, plan), start(cache, plan)
    await settle()
    first.cancel()
    assert isinstance(await outcome(first), asyncio.CancelledError)
    cache.workers.open.set()
    await second
    assert len(cache.workers.loads) == 1


async def test_revoked_version_leaves_with_its_last_request(cache: Cache) -> None:
    plan, other = await cache.plan("gone"), await cache.plan("other")
    ends = [asyncio.Event(), asyncio.Event()]
    await cache.use(other)
    users = [start(cache, plan, end) for end in ends]
    await settle()
    cache.residency.revoke(lambda version: version.adapter == "gone")
    await settle()
    assert cache.residency.leased(plan.versions[0])
    ends[0].set()
    await users[0]
    await settle()
    assert b"gone".ljust(SIZE) in cache.workers.held
    ends[1].set()
    await users[1]
    await settle()
    assert cache.workers.held == [b"other".ljust(SIZE)]
    assert cache.names == ["other"]


async def test_idle_revoked_version_leaves_at_once(cache: Cache) -> None:
    await cache.use(await cache.plan("gone"))
    cache.residency.revoke(lambda version: True)
    await settle()
    assert cache.workers.held == []


@pytest.mark.parametrize("when", ["before the engine is asked", "while the engine loads"])
async def test_version_revoked_while_it_loads_for_nobody_leaves_nothing_behind(
    cache: Cache, when: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plan = await cache.plan("gone")
    fetched = asyncio.Event()
    fetch = cache.blobs.fetch

    async def slow_fetch(digest: str) -> Path:
        await fetched.wait()
        return await fetch(digest)

    if when == "before the engine is asked":
        monkeypatch.setattr(cache.blobs, "fetch", slow_fetch)
    cache.workers.open.clear()
    user = start(cache, plan)
    await settle()
    cache.residency.revoke(lambda version: True)
    user.cancel()
    await settle()
    fetched.set()
    cache.workers.open.set()
    await settle()
    assert cache.workers.held == []
    assert cache.names == []
    assert caplog.messages == []


async def test_no_engine_no_lease(cache: Cache) -> None:
    cache.residency.attach(None)
    with pytest.raises(EngineUnavailable):
        await cache.use(await cache.plan("one"))
    assert cache.names == []


async def test_engine_lost_while_loading_and_the_next_one_loads_again(cache: Cache) -> None:
    plan = await cache.plan("one")
    cache.workers.open.clear()
    tasks = [start(cache, plan) for _ in range(3)]
    await settle()
    cache.residency.attach(None)
    for task in tasks:
        assert isinstance(await outcome(task), EngineUnavailable)
    cache.workers = FakeWorkers()
    cache.residency.attach(cache.workers)
    assert cache.names == []
    await cache.use(plan)
    assert cache.workers.loads == [b"one".ljust(SIZE)]
    assert metrics.resident_bytes._value.get() == SIZE


async def test_engine_lost_before_the_load_took_its_first_step(cache: Cache) -> None:
    plan = await cache.plan("one")
    task = start(cache, plan)
    asyncio.get_running_loop().call_soon(cache.residency.attach, None)
    assert isinstance(await asyncio.wait_for(outcome(task), 2), EngineUnavailable)


async def test_engine_lost_while_a_request_waits_for_room(make: Callable[..., Cache]) -> None:
    cache = make(budget=SIZE)
    end = asyncio.Event()
    holder = start(cache, await cache.plan("a"), end)
    await settle()
    waiting = start(cache, await cache.plan("b"))
    await settle()
    cache.residency.attach(None)
    assert isinstance(await asyncio.wait_for(outcome(waiting), 2), EngineUnavailable)
    end.set()
    await holder
    assert metrics.resident_bytes._value.get() == 0


async def test_requests_of_a_lost_engine_do_not_disturb_the_next_ones(cache: Cache) -> None:
    end = asyncio.Event()
    plan = await cache.plan("one")
    old = start(cache, plan, end)
    await settle()
    cache.residency.attach(None)
    cache.workers = FakeWorkers()
    cache.residency.attach(cache.workers)
    new = start(cache, plan, end)
    await settle()
    end.set()
    first, second = await asyncio.gather(old, new)
    assert first.lora_int_id != second.lora_int_id
    assert cache.workers.held == [b"one".ljust(SIZE)]


@pytest.mark.parametrize("seed", range(5))
async def test_nothing_is_lost_in_a_storm(make: Callable[..., Cache], seed: int) -> None:
    """Requests that come, hang up, fail; versions that are revoked; an engine that dies: memory always adds up."""
    chance = random.Random(seed)
    cache = make(budget=3 * SIZE, timeout_s=2.0)
    plans = [await cache.plan(f"{number}") for number in range(8)]
    blends = [blend(*chance.sample(plans, 2), weights=(0.5, chance.random())) for _ in range(8)]
    cache.workers.broken = {b"7".ljust(SIZE)}
    engines = [cache.workers]
    outcomes: list[str] = []

    async def request() -> None:
        await asyncio.sleep(chance.random() * 0.2)
        plan, workers = chance.choice([*plans, *blends]), cache.workers
        try:
            async with AsyncExitStack() as stack:
                lora = await stack.enter_async_context(cache.residency.lease(plan))
                assert lora is not None
                workers = next(engine for engine in engines if weights(lora).keys() <= engine.memory.keys())
                workers.begin(lora)
                stack.callback(workers.end, lora)
                await asyncio.sleep(chance.random() * 0.02)
            outcomes.append("served")
        except PolyadError as error:
            outcomes.append(type(error).__name__)

    async def disturb(tasks: "list[asyncio.Task[None]]") -> None:
        for _ in range(30):
            await asyncio.sleep(chance.random() * 0.01)
            chance.choice(tasks).cancel()
            gone = str(chance.randrange(8))
            cache.residency.revoke(lambda version, gone=gone: version.adapter == gone)
            assert len(cache.residency.residents) <= 3
        cache.residency.attach(None)
        await asyncio.sleep(0.02)
        cache.workers = FakeWorkers()
        engines.append(cache.workers)
        cache.residency.attach(cache.workers)

    tasks = [asyncio.create_task(request()) for _ in range(300)]
    await asyncio.wait_for(asyncio.gather(disturb(tasks), *tasks, return_exceptions=True), 20)
    await settle()
    assert outcomes.count("served") > 50
    assert set(outcomes) <= {"served", "LoadFailed", "EngineUnavailable"}
    assert not any(cache.residency.leased(plan.versions[0]) for plan in plans)
    assert cache.workers.held == sorted(name.encode().ljust(SIZE) for name in cache.names)
    assert metrics.resident_bytes._value.get() == SIZE * len(cache.names)


async def test_blend_is_served_once_all_of_its_versions_are_there(cache: Cache) -> None:
    plans = [await cache.plan(name) for name in "ab"]
    await cache.use(plans[0])
    cache.workers.open.clear()
    using = start(cache, blend(*plans))
    await settle()
    assert not using.done()
    cache.workers.open.set()
    request = await using
    assert list(weights(request).values()) == [0.7, 0.3]
    assert [cache.workers.memory[engine_id] for engine_id in weights(request)] == [n.encode().ljust(SIZE) for n in "ab"]
    assert cache.workers.loads == [name.encode().ljust(SIZE) for name in "ab"]


async def test_requests_with_the_same_composition_share_an_id_and_others_have_their_own(cache: Cache) -> None:
    plans = [await cache.plan(name) for name in "ab"]
    end = asyncio.Event()
    mixtures = [(0.7, 0.3), (0.3, 0.7), (0.7, 0.3), (-1.0, 0.1 + 0.2), (-1.0, 0.3)]
    using = [start(cache, blend(*plans, weights=mixture), end) for mixture in mixtures]
    using.append(start(cache, plans[0], end))
    await settle()
    end.set()
    requests = await asyncio.gather(*using)
    ids = [request.lora_int_id for request in requests]
    assert ids[0] == ids[2]
    assert len(set(ids)) == 5
    assert len({(request.lora_name, request.lora_path) for request in requests}) == 5
    assert [tuple(weights(request).values()) for request in requests[:5]] == mixtures
    # Nothing is kept of compositions that nobody uses.
    before = cache.residency._compositions._used
    for number in range(100):
        await cache.use(blend(*plans, weights=(1.0, number + 0.5)))
    assert before == {}


async def test_plan_without_terms_is_the_base_model(cache: Cache) -> None:
    async with cache.residency.lease(Plan(())) as request:
        assert request is None


async def test_blend_that_can_never_fit_is_refused_with_its_size(cache: Cache) -> None:
    plans = [await cache.plan(name) for name in "abcd"]
    with pytest.raises(LoadFailed, match=r"a@v1 \+ b@v1 \+ c@v1 \+ d@v1: 400 bytes, host_cache_bytes allows 300"):
        await cache.use(blend(*plans, weights=(1, 1, 1, 1)))
    assert cache.names == []


async def test_blends_that_each_need_what_the_other_holds_do_not_wait_for_each_other(
    make: Callable[..., Cache],
) -> None:
    cache = make(budget=2 * SIZE)
    a, b, c, d = [await cache.plan(name) for name in "abcd"]
    await cache.use(blend(a, b))
    pairs = [(a, c), (b, d), (c, b), (d, a), (a, b)] * 6
    requests = await asyncio.wait_for(asyncio.gather(*(cache.use(blend(*pair)) for pair in pairs)), 20)
    assert len(requests) == len(pairs)
    assert len(cache.names) == 2


async def test_blend_with_a_version_that_fails_lets_go_of_the_others(cache: Cache) -> None:
    plans = [await cache.plan(name) for name in "ab"]
    cache.workers.broken.add(b"b".ljust(SIZE))
    with pytest.raises(LoadFailed, match="torn to pieces"):
        await cache.use(blend(*plans))
    await settle()
    assert not any(cache.residency.leased(plan.versions[0]) for plan in plans)
    assert cache.names == ["a"]


async def test_a_tenant_with_many_adapters_leaves_the_others_theirs(make: Callable[..., Cache]) -> None:
    cache = make(budget=6 * SIZE)

    async def used(tenant: str, name: str) -> None:
        token = current_caller.set(Caller(tenant))
        await cache.use(await cache.plan(name))
        current_caller.reset(token)

    for name in ("mine-1", "mine-2"):
        await used("acme", name)
    for number in range(20):
        await used("flood", f"flood-{number}")
    assert cache.names[:2] == ["mine-1", "mine-2"] and len(cache.names) == 6
    for number in range(4):
        await used("acme", f"more-{number}")
    # By now acme has had half of the room, and the flood gave way.
    assert sum(name.startswith("flood") for name in cache.names) == 3
