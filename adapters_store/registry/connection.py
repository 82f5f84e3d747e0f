"""From one URL to a Redis client: standalone, unix socket, TLS, Sentinel, Cluster."""

import re
from collections.abc import Callable
from typing import Any, TypeAlias
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff

from polyad.adapters_store.errors import ConfigError
from polyad.adapters_store.masking import masked

Client: TypeAlias = Redis | RedisCluster

URL_RULE = (
    "redis://[user:password@]host[:port][/db], rediss:// (TLS), unix:///path, "
    "redis+sentinel://[user:password@]host:port,host:port/service[/db], redis+cluster://host:port,host:port; "
    "rediss+sentinel:// and rediss+cluster:// with TLS"
)

_Parsers: TypeAlias = dict[str, Callable[[str], object]]

_TLS_OPTIONS: _Parsers = {
    "ssl_ca_certs": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_cert_reqs": str,
    "ssl_check_hostname": lambda value: {"true": True, "false": False}[value],
}
_SENTINEL_OPTIONS: _Parsers = {"sentinel_username": str, "sentinel_password": str}
_SCHEMES: dict[str, _Parsers] = {
    "redis": {},
    "rediss": _TLS_OPTIONS,
    "unix": {},
    "redis+sentinel": _SENTINEL_OPTIONS,
    "rediss+sentinel": {**_TLS_OPTIONS, **_SENTINEL_OPTIONS},
    "redis+cluster": {},
    "rediss+cluster": _TLS_OPTIONS,
}
_REDIS_PORT = 6379
_SENTINEL_PORT = 26379
_CONNECT_S = 2.0


def connect(url: str) -> Client:
    """A client for the URL; it connects when first used. Raise ConfigError for a URL that is not understood."""
    try:
        parts = urlsplit(url)
        # The error would quote the URL, credentials and all.
        options = _options(parts, url)
        kind = parts.scheme.partition("+")[2] or parts.scheme
        build = {"sentinel": _sentinel, "cluster": _cluster, "unix": _unix}.get(kind, _standalone)
        return build(parts, options)
    except (ValueError, KeyError):
        raise ConfigError(f"redis_url: got {masked(url)!r}, allowed: {URL_RULE}") from None


async def drop_idle(client: Client) -> None:
    """Close the connections that are not in use: after a loss they may be dead without knowing."""
    if isinstance(client, RedisCluster):
        for node in client.get_nodes():
            await node.disconnect_free_connections()
    else:
        await client.connection_pool.disconnect(inuse_connections=False)


async def close(client: Client) -> None:
    """Close the client, and the connections to the sentinels that redis-py leaves open."""
    await client.aclose()
    pool = None if isinstance(client, RedisCluster) else client.connection_pool
    if isinstance(pool, SentinelConnectionPool):
        await pool.sentinel_manager.aclose()


def _options(parts: SplitResult, url: str) -> dict[str, Any]:
    known = _SCHEMES[parts.scheme]
    given = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        allowed = ", ".join(known) or "none"
        raise ConfigError(f"redis_url: unknown options {unknown} in {masked(url)!r}, allowed: {allowed}")
    options: dict[str, Any] = {name: known[name](value) for name, value in given.items()}
    if parts.scheme.startswith("rediss"):
        options["ssl"] = True
    return options | _credentials(parts)


def _credentials(parts: SplitResult) -> dict[str, Any]:
    userinfo, at, _ = parts.netloc.rpartition("@")
    username, _, password = userinfo.partition(":")
    if not at:
        return {}
    return {"username": unquote(username) or None, "password": unquote(password) or None}


def _common(options: dict[str, Any]) -> dict[str, Any]:
    return {
        "decode_responses": True,
        "protocol": 2,
        "socket_connect_timeout": _CONNECT_S,
        # Each call has its own limit; redis-py's goes through asyncio.wait_for, which can swallow a cancel on 3.11.
        "socket_timeout": None,
        # Nothing is sent twice behind our back: a write that got no answer may have happened.
        "retry": Retry(NoBackoff(), 0),
        **options,
    }


def _hosts(parts: SplitResult, default_port: int) -> list[tuple[str, int]]:
    hosts = []
    for item in parts.netloc.rpartition("@")[2].split(","):
        host = urlsplit(f"//{item}")
        if not host.hostname:
            raise ValueError("a host is missing")
        hosts.append((host.hostname, host.port or default_port))
    return hosts


def _database(text: str) -> int:
    if text and not re.fullmatch(r"[0-9]{1,4}", text, re.ASCII):
        raise ValueError("a database is a number")
    return int(text or 0)


def _standalone(parts: SplitResult, options: dict[str, Any]) -> Client:
    ((host, port),) = _hosts(parts, _REDIS_PORT)
    return Redis(host=host, port=port, db=_database(parts.path.removeprefix("/")), **_common(options))


def _unix(parts: SplitResult, options: dict[str, Any]) -> Client:
    if not parts.path or parts.netloc.rpartition("@")[2]:
        raise ValueError("an absolute path is missing")
    return Redis(unix_socket_path=unquote(parts.path), **_common(options))


def _sentinel(parts: SplitResult, options: dict[str, Any]) -> Client:
    service, _, database = parts.path.removeprefix("/").partition("/")
    if not service:
        raise ValueError("a service is missing")
    own = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    tls = {name: value for name, value in options.items() if name.startswith("ssl")}
    asked = {**_common({**tls, **own}), "socket_timeout": _CONNECT_S}
    sentinel: Any = Sentinel(_hosts(parts, _SENTINEL_PORT), sentinel_kwargs=asked)  # type: ignore[no-untyped-call]
    master: Redis = sentinel.master_for(unquote(service), db=_database(database), **_common(options))
    return master


def _cluster(parts: SplitResult, options: dict[str, Any]) -> Client:
    if parts.path.strip("/"):
        raise ValueError("a cluster has no databases")
    nodes = [ClusterNode(host, port) for host, port in _hosts(parts, _REDIS_PORT)]
    return RedisCluster(startup_nodes=nodes, **_common(options))
