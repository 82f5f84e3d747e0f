from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from polyad.adapters_store.admission import Limits
from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.blobs import BlobStore
from polyad.adapters_store.errors import ConfigError, RegistryUnavailable
from polyad.adapters_store.registry import EmbeddedRedis, Registry
from polyad.adapters_store.source import AdapterFiles, SourcePolicy
from polyad.serve.compose import Plan
from polyad.serve.example import register
from polyad.serve.example.register import register_examples
from polyad.serve.service import AdapterService, Pushed
from tests.fixtures.adapters import write_adapter

BASE = BaseModel("small", "f" * 64, {f"model.layers.0.self_attn.{name}_proj": (32, 32) for name in "qv"})


async def warm(plan: Plan) -> None:
    """Nobody serves here."""


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[AdapterService]:
    redis = EmbeddedRedis(tmp_path / "redis")
    await redis.start()
    registry = Registry(redis.url)
    await registry.start()
    blobs = BlobStore(str(tmp_path / "blobs"), tmp_path / "cache", 0)
    await blobs.start()
    limits = Limits(max_rank=16, max_bytes=1_000_000)
    policy = SourcePolicy(max_bytes=1)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    yield AdapterService(registry, blobs, BASE, limits, policy, scratch, warm, tenant="public")
    await registry.close()
    await redis.stop()


@pytest.fixture
def packaged(tmp_path: Path) -> Path:
    folder = tmp_path / "packaged"
    write_adapter(folder / "robot", BASE, seed=1)
    write_adapter(folder / "helpdesk", BASE, seed=2)
    (folder / "notes").mkdir()
    return folder


async def test_examples_become_production_once(service: AdapterService, packaged: Path) -> None:
    reports: list[str] = []
    await register_examples(service, reports.append, packaged)
    assert reports == ["registered the example adapter helpdesk@v1", "registered the example adapter robot@v1"]
    assert [adapter.aliases for adapter in service.page(None, 10)] == [{"production": 1}] * 2
    assert service.version("robot", "production").source == "example"
    await register_examples(service, reports.append, packaged)
    assert len(reports) == 2
    assert [len(adapter.versions) for adapter in service.page(None, 10)] == [1, 1]


async def test_what_users_did_to_an_example_stays(service: AdapterService, packaged: Path) -> None:
    await register_examples(service, print, packaged)
    write_adapter(packaged / "robot", BASE, seed=3)
    await register_examples(service, print, packaged)
    robot = service.adapter("robot")
    assert sorted(robot.versions) == [1, 2]
    assert robot.aliases == {"production": 1}


class Away:
    """A service whose registry is away for a number of pushes."""

    def __init__(self, service: AdapterService, failures: int) -> None:
        self.service, self.failures = service, failures

    async def push(self, name: str, files: AdapterFiles) -> Pushed:
        self.failures -= 1
        if self.failures >= 0:
            raise RegistryUnavailable("away")
        return await self.service.push(name, files)


async def test_registry_that_comes_back_is_waited_for(service: AdapterService, packaged: Path) -> None:
    away: Any = Away(service, 2)
    await register_examples(away, print, packaged)
    assert [adapter.name for adapter in service.page(None, 10)] == ["helpdesk", "robot"]


async def test_registry_that_stays_away_is_an_error(
    service: AdapterService, packaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(register, "WAIT_S", 0.3)
    away: Any = Away(service, 10**6)
    with pytest.raises(RegistryUnavailable):
        await register_examples(away, print, packaged)


async def test_installation_without_adapters_is_an_error(service: AdapterService, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not part of this installation"):
        await register_examples(service, print, tmp_path / "absent")
    assert service.page(None, 10) == []
