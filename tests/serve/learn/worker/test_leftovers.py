"""Folders of runs that a worker was killed in."""

import os

import pytest

from tests.fixtures.learning import ADAPTER, TENANT, Learning

pytestmark = pytest.mark.filterwarnings("ignore")


async def test_a_worker_that_begins_a_run_removes_what_ended_ones_left(parts: Learning) -> None:
    await parts.give(1)
    worker = parts.worker()
    await worker.look()
    ended = await parts.last_run()
    assert ended.is_over
    await parts.runs.begin(TENANT, ADAPTER, "demand")
    open_elsewhere = await parts.runs.begin(TENANT, "other", "demand")
    # another worker is at it
    assert await parts.runs.lease(TENANT, "other", 600)
    for name in (ended.id, "run-unknown", open_elsewhere.id, "blob-cache"):
        (parts.folder / "learn" / name).mkdir(parents=True)
        (parts.folder / "learn" / name / "file").write_text("x")
    await worker.look()
    assert sorted(os.listdir(parts.folder / "learn")) == ["blob-cache", open_elsewhere.id]
