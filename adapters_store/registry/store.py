"""The registry in Redis: every write is one Lua script, every script's answer carries the events not yet seen."""

import asyncio
import json
import secrets
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from pydantic import TypeAdapter
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    NoPermissionError,
    RedisClusterException,
    RedisError,
    ResponseError,
)

from polyad.adapters_store.errors import ConfigError, InvalidName, RegistryUnavailable
from polyad.adapters_store.masking import masked
from polyad.adapters_store.names import check_name
from polyad.adapters_store.registry.connection import Client, close, connect, drop_idle
from polyad.adapters_store.registry.events import Change
from polyad.adapters_store.registry.records import Composition, Header, Key, Tenant, Version
from polyad.adapters_store.registry.snapshot import Snapshot

# 2: saved compositions, whose names and events a server of 1 would misread. 3: keys and tenants, whose events a server
# of 2 would misread, and which it would not obey. Data of an older schema is data of the newer one without any; `load`
# makes it so, under a new birth, so that older servers stop writing and serve on from memory. There is no way back.
SCHEMA = 3
REDIS_ERRORS = (RedisError, RedisClusterException, OSError)

_KEYS = ("meta", "adapters", "versions", "digests", "numbers", "compositions", "keys", "tenants", "usage", "events")
_SCRIPTS = files("polyad.adapters_store.registry") / "scripts"
_READ_COUNT = 1000
_WRITERS = 16

_HEADERS = TypeAdapter(list[Header])
_VERSIONS = TypeAdapter(list[Version])
_COMPOSITIONS = TypeAdapter(list[Composition])
_API_KEYS = TypeAdapter(list[Key])
_TENANTS = TypeAdapter(list[Tenant])


def _script(name: str) -> str:
    return "\n".join((_SCRIPTS / f"{part}.lua").read_text(encoding="utf-8") for part in ("prelude", name))


@dataclass(frozen=True)
class Reply:
    status: str
    header: Header | None
    version: Version | None
    created: bool
    changes: list[Change]


class Store:
    def __init__(self, url: str, namespace: str) -> None:
        try:
            check_name("namespace", namespace)
        except InvalidName as error:
            raise ConfigError(str(error)) from error
        self.address = masked(url)
        self._client = connect(url)
        # Bounds the connections that a burst of writes opens.
        self._writers = asyncio.Semaphore(_WRITERS)
        self._namespace = namespace
        self._keys = [self.key(key) for key in _KEYS]
        names = [entry.name.removesuffix(".lua") for entry in _SCRIPTS.iterdir() if entry.name.endswith(".lua")]
        self._scripts = {name: _script(name) for name in names if name != "prelude"}

    @property
    def client(self) -> Client:
        return self._client

    def key(self, name: str) -> str:
        """Of this registry's data; all of it lies on one node of a cluster."""
        return f"{{{self._namespace}}}:{name}"

    async def load(self) -> Snapshot:
        """Read everything as of one moment. Raise ConfigError if a newer release wrote it or Redis refuses us."""
        request = {"schema": SCHEMA, "new_birth": secrets.token_hex(8)}
        try:
            schema, birth, revision, origin, *records = await self._eval("load", request)
        except (AuthenticationError, AuthorizationError, NoPermissionError) as error:
            raise ConfigError(f"redis_url: {self.address} refused the credentials: {error}") from error
        if int(schema) > SCHEMA:
            raise ConfigError(f"the registry at {self.address} has schema {schema}, this release knows up to {SCHEMA}")
        # Off the loop: a reload must not hold up the tokens of running requests.
        return await asyncio.to_thread(_parse, birth, int(revision), origin, *records)

    async def write(self, script: str, request: dict[str, Any], timeout_s: float) -> Reply:
        """Run one script once. Raise RegistryUnavailable; never tried again, for it may have run."""
        sent = False
        try:
            async with asyncio.timeout(timeout_s), self._writers:
                sent = True
                status, header, version, created, events = await self._eval(script, request)
        except (ResponseError, BusyLoadingError, AuthenticationError) as error:
            raise RegistryUnavailable(f"registry: {self.address} refused the change: {error}") from error
        except REDIS_ERRORS as error:
            outcome = (
                "whether the change was made is unknown: read before trying again" if sent else "nothing was changed"
            )
            raise RegistryUnavailable(
                f"registry: no answer from {self.address} ({type(error).__name__}); {outcome}"
            ) from error
        if status == "replaced":
            raise RegistryUnavailable(f"registry: the data at {self.address} was replaced; it is being read again")
        return Reply(
            status=status,
            header=Header.model_validate_json(header) if header else None,
            version=Version.model_validate_json(version) if version else None,
            created=bool(created),
            changes=[Change.parse(entry, dict(zip(pairs[::2], pairs[1::2], strict=True))) for entry, pairs in events],
        )

    async def exchange_usage(self, server: str, usage: str, forget_s: int, timeout_s: float) -> list[str]:
        """Tell the other servers what this one counts; what they told last. Raise RegistryUnavailable."""
        try:
            async with asyncio.timeout(timeout_s):
                request = {"server": server, "usage": usage, "forget_s": forget_s}
                found: list[str] = await self._eval("exchange_usage", request)
        except REDIS_ERRORS as error:
            raise RegistryUnavailable(f"registry: no answer from {self.address} ({type(error).__name__})") from error
        return found

    async def read(self, after: int, block_ms: int) -> list[Change]:
        """The changes behind revision `after`; wait up to `block_ms` milliseconds for the first."""
        streams: Any = await self._client.xread({self._keys[-1]: f"{after}-0"}, count=_READ_COUNT, block=block_ms)
        return [Change.parse(entry, fields) for _, entries in streams for entry, fields in entries]

    async def birth(self) -> str | None:
        """What tells this registry from one that was set up anew under the same keys."""
        found: Any = await self._client.hget(self._keys[0], "birth")
        return None if found is None else str(found)

    async def close(self) -> None:
        await close(self._client)

    async def drop_idle(self) -> None:
        await drop_idle(self._client)

    async def _eval(self, script: str, request: dict[str, Any]) -> Any:
        return await self._client.eval(self._scripts[script], len(self._keys), *self._keys, json.dumps(request))


def _parse(
    birth: str, revision: int, origin: str, headers: str, versions: str, compositions: str, keys: str, tenants: str
) -> Snapshot:
    return Snapshot.build(
        birth,
        revision,
        _HEADERS.validate_json(headers),
        _VERSIONS.validate_json(versions),
        _COMPOSITIONS.validate_json(compositions),
        _API_KEYS.validate_json(keys),
        _TENANTS.validate_json(tenants),
        origin,
    )
