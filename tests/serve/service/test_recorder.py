"""Interactions while Redis is away: requests go on, and nothing is lost."""

import time
from pathlib import Path

import pytest

from polyad.adapters_store.errors import RegistryUnavailable
from polyad.adapters_store.feedback import Answer, FeedbackStore, Interaction, Message
from polyad.adapters_store.registry import EmbeddedRedis
from polyad.serve.service.recorder import Recorder


def interaction(id: str) -> Interaction:
    now = time.time()
    return Interaction(
        id=id,
        tenant="public",
        adapter="support",
        version=1,
        prompt=(Message(role="user", content="Where?"),),
        answers=(Answer(text="There.", ended=True),),
        created=now,
        expires=now + 60,
    )


async def test_what_could_not_be_stored_is_stored_when_redis_is_back(tmp_path: Path) -> None:
    redis = EmbeddedRedis(tmp_path / "redis")
    store = FeedbackStore(redis.url)
    recorder = Recorder(store)
    began = time.monotonic()
    await recorder.record(interaction("early"))
    assert time.monotonic() - began < 2
    with pytest.raises(RegistryUnavailable):
        await recorder.drain()
    await redis.start()
    try:
        await recorder.record(interaction("late"))
        assert set(await store.interactions("public", ["early", "late"])) == {"early", "late"}
    finally:
        await store.close()
        await redis.stop()
