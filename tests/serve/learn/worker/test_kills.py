"""kill -9 at random points: no event is lost or used twice, and nothing is half-published."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from polyad.adapters_store.registry import EmbeddedRedis
from tests.fixtures.learning import ADAPTER, TENANT, Learning

ROOT = Path(__file__).resolve().parents[4]
KILLS = 20
EVENTS = 30
WAIT_S = 60.0

pytestmark = pytest.mark.filterwarnings("ignore")


class Nursery:
    def __init__(self, url: str, folder: Path, chat: Path) -> None:
        command = [sys.executable, "-m", "tests.fixtures.nursery", url, str(folder), str(chat)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._line() == "ready"

    def start(self) -> int:
        """The process id of a new worker."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._line())

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


async def test_a_worker_that_is_killed_again_and_again(
    parts: Learning, redis: EmbeddedRedis, tmp_path: Path, chat_folder: Path
) -> None:
    chance = random.Random(7)
    nursery = await asyncio.to_thread(Nursery, redis.url, tmp_path, chat_folder)
    given: list[str] = []
    try:
        for kill in range(KILLS):
            if kill % 5 == 0:
                given += await parts.give(EVENTS)
            worker = await asyncio.to_thread(nursery.start)
            await asyncio.sleep(chance.uniform(0.05, 2.5))
            os.kill(worker, signal.SIGKILL)
        last = await asyncio.to_thread(nursery.start)
        deadline = time.monotonic() + WAIT_S
        while await _open(parts):
            assert time.monotonic() < deadline, await parts.last_run()
            await asyncio.sleep(0.1)
        os.kill(last, signal.SIGKILL)
    finally:
        nursery.stop()
    await _check(parts, given)


async def _open(parts: Learning) -> bool:
    waiting, _ = await parts.store.waiting(TENANT, ADAPTER)
    return waiting > 0 or await parts.runs.active(TENANT, ADAPTER) is not None


async def _check(parts: Learning, given: list[str]) -> None:
    runs = await parts.runs.page(TENANT, None, 100)
    assert all(run.is_over for run in runs)
    used = Counter(entry for run in runs if run.state in ("published", "rejected") for entry in run.entries)
    dead = await parts.store.dead_letters(TENANT, ADAPTER)
    assert set(used.values()) == {1} and not used.keys() & {one["entry"] for one in dead}
    assert len(used) + len(dead) == len(given)
    adapter = parts.registry.snapshot.adapter(TENANT, ADAPTER)
    by_run = {version.run: version for version in adapter.versions.values() if version.run}
    for run in runs:
        if run.state == "published":
            assert by_run[run.id].digest == run.candidate and not by_run[run.id].quarantined
        if run.state == "rejected" and run.passed is False:
            assert by_run[run.id].quarantined
    published = [run.version for run in runs if run.state == "published"]
    assert adapter.aliases["production"] == max([1, *(number for number in published if number)])
    for version in adapter.versions.values():
        assert (await parts.blobs.fetch(version.digest)).exists()
