from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from polyad.adapters_store.registry import EmbeddedRedis
from tests.fixtures.learning import Learning, learning


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path / "redis")
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def parts(redis: EmbeddedRedis, tmp_path: Path, chat_folder: Path) -> AsyncIterator[Learning]:
    async with learning(redis.url, tmp_path, chat_folder) as made:
        await made.push()
        yield made
