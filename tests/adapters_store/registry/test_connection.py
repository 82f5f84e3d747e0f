import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from polyad.adapters_store.errors import ConfigError, RegistryUnavailable
from polyad.adapters_store.registry import EmbeddedRedis, Registry, VersionDraft, masked
from polyad.adapters_store.registry.binary import find_binary
from polyad.adapters_store.registry.connection import close, connect

Draft = Callable[[int], VersionDraft]
Open = Callable[..., Awaitable[Registry]]
Eventually = Callable[[Callable[[], Any]], Awaitable[float]]


def _port(below: int = 65_536) -> int:
    """A free port; a cluster node also takes the one 10,000 higher."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port < below:
            return port


def _said(error: BaseException | None) -> str:
    """Everything that the error and its causes say; not the traceback, which quotes this file."""
    return f"{error!r} {error} {_said(error.__cause__ or error.__context__)}" if error else ""


def _spawn(folder: Path, port: int, settings: tuple[str, ...], config: str) -> subprocess.Popen[bytes]:
    folder.mkdir()
    (folder / "redis.conf").write_text(f"port {port}\nbind 127.0.0.1\ndir {folder}\n{config}")
    return subprocess.Popen(
        [find_binary(), str(folder / "redis.conf"), *settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


@contextlib.asynccontextmanager
async def _server(folder: Path, port: int, *settings: str, config: str = "") -> AsyncIterator[subprocess.Popen[bytes]]:
    process = _spawn(folder, port, settings, config)
    try:
        for _ in range(500):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            await asyncio.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:1/2", "redis://host:1/2"),
        ("redis://:hunter2@host", "redis://***@host"),
        ("rediss://user:hunter2@host/1", "rediss://***@host/1"),
        ("redis+sentinel://user:hun/ter2@a:1,b:2/main", "redis+sentinel://***@a:1,b:2/main"),
        ("redis://user:hun@ter2@host", "redis://***@host"),
        ("user:hunter2@host", "***@host"),
        ("redis+sentinel://a/m?sentinel_password=hunter2&x=1", "redis+sentinel://a/m?sentinel_password=***&x=1"),
    ],
)
def test_masked(url: str, shown: str) -> None:
    assert masked(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host:6379",
        "http://user:hunter2@host",
        "redis://user:hunter2@",
        "redis://user:hunter2@host:port",
        "redis://user:hunter2@host:70000",
        "redis://user:hunter2@host/one",
        "redis://user:hunter2@host,other",
        "redis://user:hunter2@host?socket_timeout=1",
        "redis://user:hunter2@host?ssl_ca_certs=x",
        "rediss://user:hunter2@host?ssl_check_hostname=maybe",
        "redis+sentinel://user:hunter2@a:1,b:2",
        "redis+cluster://user:hunter2@a:1/3",
        "unix://user:hunter2@relative/redis.sock",
        "unix://",
    ],
)
def test_a_bad_url_is_refused_without_showing_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match=r"redis_url: .*allowed: ") as caught:
        connect(url)
    assert "hunter2" not in _said(caught.value)


async def test_credentials_and_options_reach_the_client_but_no_repr() -> None:
    url = "rediss://us%40er:hunter2@[::1]:7/3?ssl_cert_reqs=none&ssl_check_hostname=false"
    client = connect(url)
    assert isinstance(client, Redis)
    options = client.connection_pool.connection_kwargs
    assert (options["username"], options["password"], options["host"]) == ("us@er", "hunter2", "::1")
    assert (options["port"], options["db"], options["ssl_cert_reqs"]) == (7, 3, "none")
    assert "hunter2" not in repr(client)
    await close(client)


async def test_a_wrong_password_is_a_configuration_error(tmp_path: Path, open_registry: Open, draft: Draft) -> None:
    port = _port()
    async with _server(tmp_path / "redis", port, config="requirepass right\n"):
        with pytest.raises(ConfigError, match="refused the credentials") as caught:
            await open_registry(f"redis://:hunter2@127.0.0.1:{port}")
        assert "hunter2" not in _said(caught.value)
        registry = await open_registry(f"redis://:right@127.0.0.1:{port}/5")
        assert (await registry.add_version("acme", "support", draft(1)))[1]
        await registry.close()


async def test_a_real_cluster(tmp_path: Path, open_registry: Open, draft: Draft, eventually: Eventually) -> None:
    port = _port(below=55_000)
    async with _server(tmp_path / "node", port, config="cluster-enabled yes\n"):
        async with Redis(port=port) as client:
            await client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))  # type: ignore[no-untyped-call]
            await eventually(lambda: _cluster_is_up(client))
        first = await open_registry(f"redis+cluster://127.0.0.1:{port}")
        second = await open_registry(f"redis+cluster://127.0.0.1:{port}")
        for seed in (1, 2):
            await first.add_version("acme", "support", draft(seed))
        await first.set_alias("acme", "support", "production", 2, if_current=1)
        await eventually(lambda: second.snapshot.revision == 3)
        assert second.snapshot.adapter("acme", "support") == first.snapshot.adapter("acme", "support")
        await second.delete_adapter("acme", "support")
        assert second.live
        await first.close()
        await second.close()


async def test_a_real_sentinel_moves_us_to_the_new_master(
    tmp_path: Path, open_registry: Open, draft: Draft, eventually: Eventually
) -> None:
    master, replica, sentinel = _port(), _port(), _port()
    config = (
        f"sentinel monitor main 127.0.0.1 {master} 1\nsentinel down-after-milliseconds main 500\n"
        "sentinel failover-timeout main 2000\n"
    )
    async with (
        _server(tmp_path / "master", master) as process,
        _server(tmp_path / "replica", replica, config=f"replicaof 127.0.0.1 {master}\nrepl-diskless-sync-delay 0\n"),
        _server(tmp_path / "sentinel", sentinel, "--sentinel", config=config),
    ):
        async with Redis(port=replica, decode_responses=True) as client:
            await eventually(lambda: _is_in_sync(client))
        async with Redis(port=sentinel, decode_responses=True) as client:
            await eventually(lambda: client.sentinel_slaves("main"))
        registry = await open_registry(f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel}/main/0")
        await registry.add_version("acme", "support", draft(1))
        async with Redis(port=replica, decode_responses=True) as client:
            await eventually(lambda: client.exists("{polyad}:adapters"))
        process.kill()
        await eventually(lambda: not registry.live)
        await _until_written(registry, draft(2))
        assert registry.snapshot.resolve("acme", "support", "v2").digest == draft(2).digest
        async with Redis(port=replica, decode_responses=True) as client:
            assert (await client.role())[0] == "master"
        await registry.close()


async def _cluster_is_up(client: Redis) -> bool:
    said: bytes = await client.execute_command("CLUSTER", "INFO")  # type: ignore[no-untyped-call]
    return b"cluster_state:ok" in said


async def _is_in_sync(replica: Redis) -> bool:
    state: Any = await replica.info("replication")
    return bool(state["master_link_status"] == "up")


async def _until_written(registry: Registry, draft: VersionDraft) -> None:
    for _ in range(300):
        try:
            await registry.add_version("acme", "support", draft)
            return
        except RegistryUnavailable:
            await asyncio.sleep(0.05)
    pytest.fail("no new master in 15 s")


def _certificate(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-keyout", key, "-out", certificate, "-subj", "/CN=redis", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
async def test_tls_is_verified(
    tmp_path: Path, redis: EmbeddedRedis, proxy: Any, open_registry: Open, draft: Draft
) -> None:
    certificate, key = _certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, ssl=context)
    address = f"rediss://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    registry = await open_registry(f"{address}?ssl_ca_certs={certificate}")
    await registry.add_version("acme", "support", draft(1))
    with pytest.raises(RegistryUnavailable, match="certificate"):
        await open_registry(address)
    await registry.close()
    server.close()
