"""Pushing and promoting on a real registry, real files and real admission; the engine's cache is a list."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from polyad.adapters_store.admission import Limits
from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.blobs import BlobStore
from polyad.adapters_store.delta import read_delta
from polyad.adapters_store.errors import (
    AliasMoved,
    Conflict,
    Forbidden,
    InvalidAdapter,
    InvalidInput,
    InvalidName,
    InvalidSource,
    LoadFailed,
    NotFound,
    RegistryUnavailable,
    UnknownVersion,
)
from polyad.adapters_store.registry import EmbeddedRedis, Registry, VersionDraft
from polyad.adapters_store.source import AdapterFiles, SourcePolicy
from polyad.serve.compose import Plan
from polyad.serve.service import AdapterService

MakeFiles = Callable[..., AdapterFiles]


class Engine:
    """Remembers what was brought into host memory, and fails when told to."""

    def __init__(self, registry: Registry) -> None:
        self.warmed: list[str] = []
        self.broken = False
        self._registry = registry

    async def warm(self, plan: Plan) -> None:
        if self.broken:
            raise LoadFailed("no room")
        (version,) = plan.versions
        aliases = self._registry.snapshot.adapter("public", version.adapter).aliases
        self.warmed.append(f"{plan.label} before {sorted(a for a, n in aliases.items() if n == version.number)}")


@pytest.fixture
def engine(registry: Registry) -> Engine:
    return Engine(registry)


@pytest.fixture
def service(
    registry: Registry, blobs: BlobStore, tiny_base: BaseModel, engine: Engine, tmp_path: Path
) -> AdapterService:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "root").mkdir()
    return AdapterService(
        registry,
        blobs,
        tiny_base,
        Limits(max_rank=8),
        SourcePolicy(max_bytes=10**6, hub=False),
        tmp_path / "scratch",
        engine.warm,
        tenant="public",
        reserved=["tiny"],
        adapter_root=tmp_path / "root",
    )


async def test_first_push_is_production_and_its_bytes_are_the_delta(
    service: AdapterService, blobs: BlobStore, tiny_base: BaseModel, make_files: MakeFiles
) -> None:
    pushed = await service.push("support", make_files(1))
    assert pushed.created
    version = pushed.version
    assert (version.label, version.rank, version.targets, version.source) == ("v1", 4, ("q_proj", "v_proj"), "upload")
    assert version.base == tiny_base.fingerprint
    assert service.adapter("support").aliases == {"production": 1}
    path = await blobs.fetch(version.digest)
    assert path.stat().st_size == version.size
    assert read_delta(path).rank == 4


async def test_same_bytes_are_the_same_version(service: AdapterService, make_files: MakeFiles) -> None:
    first = await service.push("support", make_files(1))
    again = await service.push("support", make_files(1))
    assert not again.created
    assert again.version == first.version
    other = await service.push("tone", make_files(1))
    assert other.created
    assert other.version.digest == first.version.digest


async def test_pushes_of_the_same_bytes_at_once_are_one_version(service: AdapterService, make_files: MakeFiles) -> None:
    files = make_files(1)
    pushed = await asyncio.gather(*(service.push("support", files) for _ in range(8)))
    assert sum(push.created for push in pushed) == 1
    assert {push.version.number for push in pushed} == {1}


async def test_later_push_waits_for_its_alias(service: AdapterService, engine: Engine, make_files: MakeFiles) -> None:
    await service.push("support", make_files(1))
    second = await service.push("support", make_files(2))
    assert service.version("support", "production").number == 1
    assert engine.warmed == []
    adapter = await service.set_alias("support", "production", "v2", "v1")
    assert adapter.aliases == {"production": 2, "previous": 1}
    assert engine.warmed == ["support@v2 before []"]
    assert service.version("support", second.version.digest[:12]).number == 2


async def test_push_with_an_alias_is_in_host_memory_first(
    service: AdapterService, engine: Engine, make_files: MakeFiles
) -> None:
    await service.push("support", make_files(1), ["canary", "stable"])
    assert engine.warmed == ["support@v1 before ['production']"]
    assert service.adapter("support").aliases == {"production": 1, "canary": 1, "stable": 1}


async def test_what_the_gate_turned_down_gets_no_alias(
    service: AdapterService, registry: Registry, engine: Engine, make_files: MakeFiles
) -> None:
    pushed = (await service.push("support", make_files(1))).version
    turned_down = make_files(2)
    again = await service.push("other", turned_down)
    draft = VersionDraft(**{name: getattr(again.version, name) for name in VersionDraft.model_fields})
    draft = draft.model_copy(update={"quarantined": True, "run": "run-1"})
    await registry.add_version("public", "support", draft)
    for attempt in (service.push("support", turned_down, ["canary"]), service.set_alias("support", "canary", "v2")):
        with pytest.raises(Conflict, match=r"support@v2 was turned down by the gate of run-1"):
            await attempt
    assert service.adapter("support").aliases == {"production": pushed.number} and not engine.warmed


async def test_version_that_does_not_load_is_not_promoted(
    service: AdapterService, engine: Engine, make_files: MakeFiles
) -> None:
    await service.push("support", make_files(1))
    await service.push("support", make_files(2))
    engine.broken = True
    with pytest.raises(LoadFailed):
        await service.set_alias("support", "production", "v2")
    with pytest.raises(LoadFailed):
        await service.push("support", make_files(3), ["production"])
    assert service.adapter("support").aliases == {"production": 1}
    assert sorted(service.adapter("support").versions) == [1, 2, 3]


@pytest.mark.parametrize(
    ("alias", "version", "if_current", "error"),
    [
        ("production", "v2", "v2", AliasMoved),
        ("production", "v2", None, AliasMoved),
        ("production", "v2", "production", InvalidInput),
        ("production", "v9", "v1", UnknownVersion),
        ("production", "nothing", "v1", NotFound),
        ("v7", "v2", "v1", InvalidName),
        ("Production", "v2", "v1", InvalidName),
        ("../production", "v2", "v1", InvalidName),
    ],
)
async def test_alias_that_cannot_be_set_stays_where_it_was(
    service: AdapterService,
    make_files: MakeFiles,
    alias: str,
    version: str,
    if_current: str | None,
    error: type[Exception],
) -> None:
    for seed in (1, 2):
        await service.push("support", make_files(seed))
    with pytest.raises(error):
        await service.set_alias("support", alias, version, if_current)
    assert service.adapter("support").aliases == {"production": 1}


@pytest.mark.parametrize("name", ["tiny", "Support", "..", "a/b", "", "a" * 64, "supp\N{CYRILLIC SMALL LETTER O}rt"])
async def test_bad_name_or_the_base_models_is_refused(
    service: AdapterService, registry: Registry, make_files: MakeFiles, name: str
) -> None:
    with pytest.raises(InvalidName, match="^name: "):
        await service.push(name, make_files(1))
    with pytest.raises(InvalidName, match="^name: "):
        await service.push_source(name, "s3://bucket/x/")
    assert registry.snapshot.count == 0


async def test_refused_push_leaves_nothing_behind(
    service: AdapterService, registry: Registry, blobs: BlobStore, make_files: MakeFiles, tmp_path: Path
) -> None:
    with pytest.raises(InvalidAdapter, match="q_proj: rank: got 16, allowed: ranks from 1 to 8"):
        await service.push("support", make_files(1, rank=16))
    with pytest.raises(InvalidName):
        await service.push("support", make_files(2), ["v1"])
    with pytest.raises(InvalidSource):
        await service.push_source("support", "s3://bucket/x/")
    assert registry.snapshot.count == 0
    assert await blobs.digests() == []
    assert list((tmp_path / "scratch").iterdir()) == []


async def test_folder_must_lie_under_the_root(service: AdapterService, make_files: MakeFiles, tmp_path: Path) -> None:
    files = make_files(1)
    inside = tmp_path / "root" / "support"
    files.weights.parent.rename(inside)
    assert (await service.push_folder("support", "support")).created
    (tmp_path / "root" / "link").symlink_to(tmp_path / "scratch")
    for folder in ("../scratch", "/etc", "link"):
        with pytest.raises((Forbidden, NotFound, InvalidInput)):
            await service.push_folder("other", folder)
    with pytest.raises(NotFound):
        service.adapter("other")


async def test_deleted_adapter_is_gone_and_its_numbers_are_not_used_again(
    service: AdapterService, make_files: MakeFiles
) -> None:
    for seed in (1, 2):
        await service.push("support", make_files(seed))
    await service.delete("support")
    with pytest.raises(NotFound):
        service.version("support", "production")
    with pytest.raises(NotFound):
        await service.delete("support")
    assert (await service.push("support", make_files(1))).version.number == 3


async def test_versions_are_deleted_by_number_only(service: AdapterService, make_files: MakeFiles) -> None:
    for seed in (1, 2):
        await service.push("support", make_files(seed))
    for reference in ("production", "0f3a" * 3, "2", "v02"):
        with pytest.raises(UnknownVersion, match="by number"):
            await service.delete_version("support", reference)
    await service.set_pinned("support", "v2", True)
    assert service.version("support", "v2").pinned
    await service.set_pinned("support", "v2", False)
    assert sorted((await service.delete_version("support", "v2")).versions) == [1]


async def test_without_redis_reading_goes_on_and_writing_fails_at_once(
    service: AdapterService, redis: EmbeddedRedis, registry: Registry, make_files: MakeFiles
) -> None:
    for seed in (1, 2):
        await service.push("support", make_files(seed))
    await redis.stop()
    deadline = asyncio.get_running_loop().time() + 10
    while registry.live:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)
    began = asyncio.get_running_loop().time()
    for write in (
        service.push("support", make_files(3)),
        service.set_alias("support", "production", "v2"),
        service.delete("support"),
    ):
        with pytest.raises(RegistryUnavailable):
            await write
    assert asyncio.get_running_loop().time() - began < 1
    assert service.version("support", "production").number == 1
    assert [adapter.name for adapter in service.page(None, 10)] == ["support"]
