"""`polyad registry migrate`: against a real Redis, new, old and newer than this release."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio
from click.testing import CliRunner, Result

from polyad.adapters_store.registry import EmbeddedRedis
from polyad.adapters_store.registry.store import SCHEMA
from polyad.serve.cli.main import polyad


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path / "redis")
    await server.start()
    yield server
    await server.stop()


def migrate(*arguments: str) -> Result:
    return CliRunner().invoke(polyad, ["registry", "migrate", *arguments])


async def run(url: str) -> Result:
    return await asyncio.to_thread(migrate, "--json", "--redis-url", url)


async def test_a_new_registry_is_set_up_and_again_is_the_same(embedded: EmbeddedRedis) -> None:
    first, again = await run(embedded.url), await run(embedded.url)
    assert (first.exit_code, again.exit_code) == (0, 0), first.output
    assert json.loads(first.stdout) == json.loads(again.stdout)
    assert json.loads(first.stdout) | {"registry": ""} == {
        "registry": "",
        "schema": SCHEMA,
        "revision": 0,
        "adapters": 0,
    }


async def test_an_older_schema_is_brought_up(embedded: EmbeddedRedis) -> None:
    client = redis.asyncio.Redis.from_url(embedded.url, decode_responses=True)
    await client.hset("{polyad}:meta", mapping={"schema": 1, "birth": "old", "revision": 7})
    assert (await run(embedded.url)).exit_code == 0
    after = await client.hgetall("{polyad}:meta")
    await client.aclose()
    assert (after["schema"], after["revision"]) == (str(SCHEMA), "7")
    assert after["birth"] != "old"


async def test_a_newer_schema_is_refused_and_left(embedded: EmbeddedRedis) -> None:
    client = redis.asyncio.Redis.from_url(embedded.url, decode_responses=True)
    await client.hset("{polyad}:meta", mapping={"schema": SCHEMA + 1, "birth": "new", "revision": 7})
    refused = await run(embedded.url)
    after = await client.hgetall("{polyad}:meta")
    await client.aclose()
    assert refused.exit_code == 1
    assert f"has schema {SCHEMA + 1}, this release knows up to {SCHEMA}" in refused.output
    assert after == {"schema": str(SCHEMA + 1), "birth": "new", "revision": "7"}


def test_without_a_url_or_without_redis_it_says_so(tmp_path: Path) -> None:
    missing = migrate()
    assert missing.exit_code == 2
    assert "redis_url is missing" in missing.output
    away = migrate("--redis-url", f"unix://{tmp_path}/nobody.sock")
    assert away.exit_code == 1
    assert "does not answer" in away.output
