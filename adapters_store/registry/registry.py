"""The registry: which adapters, versions, aliases, saved compositions and keys exist, for all servers on one Redis."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final

from polyad.adapters_store.ending import end
from polyad.adapters_store.errors import (
    AliasMoved,
    CompositionChanged,
    ConfigError,
    Conflict,
    RegistryUnavailable,
    UnknownAdapter,
    UnknownAlias,
    UnknownComposition,
    UnknownKey,
    UnknownVersion,
    VersionInUse,
)
from polyad.adapters_store.names import PRODUCTION, check_alias, check_name
from polyad.adapters_store.registry.events import Event
from polyad.adapters_store.registry.feed import Feed
from polyad.adapters_store.registry.merge_ledger import MergeLedger
from polyad.adapters_store.registry.records import (
    Adapter,
    Composition,
    Header,
    Key,
    Limits,
    RoleName,
    Tenant,
    Version,
    VersionDraft,
)
from polyad.adapters_store.registry.replicas import Replicas
from polyad.adapters_store.registry.room import check_room
from polyad.adapters_store.registry.snapshot import OutOfOrder, Snapshot
from polyad.adapters_store.registry.store import REDIS_ERRORS, SCHEMA, Reply, Store
from polyad.adapters_store.registry.tail import Tail


class Unset(Enum):
    UNSET = "unset"


UNSET: Final = Unset.UNSET


class Registry:
    """Reads come from `snapshot`, in memory. Writes go to Redis and are in `snapshot` when they return.

    Every write raises InvalidName for a bad name, and RegistryUnavailable when Redis is away: at once while
    `live` is false, within `write_timeout_s` seconds otherwise.
    """

    def __init__(self, url: str, namespace: str = "polyad", *, write_timeout_s: float = 1.0) -> None:
        self._store = Store(url, namespace)
        self._place = (url, namespace)
        self._feed = Feed()
        self._tail = Tail(self._store, self._feed)
        self._task: asyncio.Task[None] | None = None
        self._write_timeout_s = write_timeout_s
        self.merges = MergeLedger(self._store, write_timeout_s)

    async def start(self) -> None:
        """Connect and read everything. Raise RegistryUnavailable, or ConfigError if waiting would not help."""
        try:
            await self._tail.load()
        except (*REDIS_ERRORS, ConfigError) as error:
            await self._store.close()
            if isinstance(error, ConfigError):
                raise
            said = f"{type(error).__name__}: {error}"
            raise RegistryUnavailable(f"registry: {self._store.address} does not answer: {said}") from error
        self._task = asyncio.create_task(self._tail.run(), name="polyad-registry-tail")

    async def close(self) -> None:
        if self._task is not None:
            await end(self._task)
            self._task = None
        self._tail.live = False
        await self._store.close()

    def replicas(self, expiry_s: float) -> Replicas:
        """The list of servers on this registry, over a connection of its own."""
        return Replicas(*self._place, expiry_s)

    @property
    def snapshot(self) -> Snapshot:
        return self._feed.snapshot

    @property
    def schema(self) -> int:
        """The form in which this release writes the registry."""
        return SCHEMA

    @property
    def live(self) -> bool:
        """Whether Redis answers; if not, the snapshot still serves and nothing can be written."""
        return self._tail.live

    @property
    def lag(self) -> float:
        """Seconds since the snapshot was last known to be up to date: about one at most while `live`."""
        return time.monotonic() - self._tail.seen_at

    @property
    def last_event_id(self) -> str:
        return f"{self.snapshot.revision}-0"

    def subscribe(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        """Call back in the event loop after each change of the snapshot; the returned function ends that."""
        return self._feed.subscribe(callback)

    async def add_version(
        self,
        tenant: str,
        name: str,
        draft: VersionDraft,
        aliases: Sequence[str] = (),
        if_created: float | None = None,
    ) -> tuple[Version, bool]:
        """Add a version, and the adapter if need be; the aliases point to it in the same step.

        The same digest again gives the version that is there and False. The first version of an adapter becomes
        `production`, unless it is quarantined. With `if_created`, only to the adapter that was created then: raise
        UnknownAdapter for none and for another. Raise Conflict if a composition has the name, LimitReached.
        """
        check_room(self.snapshot, tenant, name, draft.digest, draft.size)
        # An explicit `previous` must win over the one that moving `production` sets.
        ordered = sorted((check_alias("alias", alias) for alias in aliases), key=lambda alias: alias != PRODUCTION)
        created = round(time.time(), 3)
        version = json.dumps({"tenant": tenant, "adapter": name, "created": created, **draft.model_dump()})
        what = {"digest": draft.digest, "version": version, "quarantined": draft.quarantined}
        where = {"aliases": ordered} if if_created is None else {"aliases": ordered, "if_created": if_created}
        reply = await self._write("add_version", tenant, name, created=created, **what, **where)
        if reply.status == "unknown_adapter":
            raise UnknownAdapter("adapter", name, "is not the one any more that the version is for: it was deleted")
        if reply.status == "name_taken":
            raise Conflict("name", f"{name!r} is a saved composition; an adapter needs a name of its own")
        if reply.version is None or reply.header is None:
            raise RegistryUnavailable("registry: Redis gave an incomplete answer")
        pinned = reply.version.number in reply.header.pins
        return reply.version.model_copy(update={"pinned": pinned}), reply.created

    def check_room(self, tenant: str, name: str) -> None:
        """Raise LimitReached where `add_version` would, whatever the version."""
        check_room(self.snapshot, tenant, name)

    async def set_alias(
        self, tenant: str, name: str, alias: str, number: int, if_current: int | Unset | None = UNSET
    ) -> Adapter:
        """Point an alias at a version, if it points to `if_current` now (None: if it is absent).

        Moving `production` leaves `previous` at the version before. Raise AliasMoved, UnknownAdapter, UnknownVersion.
        """
        check_alias("alias", alias)
        compare = not isinstance(if_current, Unset)
        expected = 0 if isinstance(if_current, Unset) or if_current is None else if_current
        arguments = {"alias": alias, "number": number, "compare": compare, "expected": expected}
        reply = await self._write("set_alias", tenant, name, **arguments)
        if reply.status == "alias_moved":
            raise AliasMoved("if_current", _moved(alias, reply.header, expected))
        return self._after(reply, tenant, name, number=number)

    async def delete_alias(self, tenant: str, name: str, alias: str) -> Adapter:
        """Raise UnknownAdapter, UnknownAlias."""
        reply = await self._write("delete_alias", tenant, name, alias=check_alias("alias", alias))
        if reply.status == "unknown_alias":
            raise UnknownAlias("alias", alias, f"is no alias of adapter {name!r}")
        return self._after(reply, tenant, name)

    async def set_pinned(self, tenant: str, name: str, number: int, pinned: bool) -> Adapter:
        """Keep a version from being deleted or collected, or let it go. Raise UnknownAdapter, UnknownVersion."""
        reply = await self._write("set_pinned", tenant, name, number=number, pinned=pinned)
        return self._after(reply, tenant, name, number=number)

    async def delete_version(self, tenant: str, name: str, number: int) -> Adapter:
        """Raise VersionInUse while an alias or a pin needs it, UnknownAdapter, UnknownVersion."""
        reply = await self._write("delete_version", tenant, name, number=number)
        if reply.status == "version_in_use":
            raise VersionInUse("version", f"v{number} of {name!r} is in use: {_users(reply.header, number)}")
        return self._after(reply, tenant, name, number=number)

    async def delete_adapter(self, tenant: str, name: str) -> None:
        """Delete an adapter with all versions, aliases and pins. Raise UnknownAdapter."""
        reply = await self._write("delete_adapter", tenant, name)
        if reply.status == "unknown_adapter":
            raise UnknownAdapter("adapter", name, "does not exist")

    async def set_composition(
        self, tenant: str, name: str, expression: str, if_current: str | Unset | None = UNSET
    ) -> Composition:
        """Save an expression by a name, if that stands for `if_current` now (None: if it does not exist).

        Raise CompositionChanged, and Conflict if an adapter has the name.
        """
        compare = not isinstance(if_current, Unset)
        expected = if_current if isinstance(if_current, str) else ""
        arguments = {"expression": expression, "compare": compare, "expected": expected}
        reply = await self._write("set_composition", tenant, name, created=round(time.time(), 3), **arguments)
        if reply.status == "name_taken":
            raise Conflict("name", f"{name!r} is an adapter; a composition needs a name of its own")
        current = self.snapshot.find_composition(tenant, name)
        if reply.status == "composition_changed":
            raise CompositionChanged("if_current", _changed(name, current, expected))
        return self.snapshot.composition(tenant, name)

    async def delete_composition(self, tenant: str, name: str) -> None:
        """Raise UnknownComposition."""
        reply = await self._write("delete_composition", tenant, name)
        if reply.status == "unknown_composition":
            raise UnknownComposition("composition", name, "does not exist")

    async def add_key(self, tenant: str, name: str, role: RoleName, digest: str, label: str = "") -> Key:
        """Let who has the key with this SHA-256 act for a tenant. Raise Conflict if the name is taken."""
        key = Key(
            tenant=tenant, name=name, role=role, label=label, digest=digest, created=round(time.time(), 3), revision=0
        )
        reply = await self._write("add_key", tenant, name, record=key.model_dump())
        if reply.status == "name_taken":
            raise Conflict("key", f"{name!r} exists")
        return key

    async def delete_key(self, tenant: str, name: str) -> None:
        """Revoke a key, on every server. Raise UnknownKey."""
        reply = await self._write("delete_key", tenant, name)
        if reply.status == "unknown_key":
            raise UnknownKey("key", name, "does not exist")

    async def set_limits(self, tenant: str, limits: Limits) -> None:
        """Replace what a tenant may have and use."""
        record = Tenant(
            tenant=tenant, name=tenant, created=round(time.time(), 3), revision=0, **dict(limits.model_dump())
        )
        await self._write("set_tenant", tenant, tenant, record=record.model_dump())

    async def exchange_usage(self, server: str, usage: str, forget_s: int) -> list[str]:
        """Tell the other servers what this one counts; what each of them told in the last `forget_s` seconds.

        Raise RegistryUnavailable.
        """
        if not self.live:
            raise RegistryUnavailable("registry: Redis is away")
        return await self._store.exchange_usage(server, usage, forget_s, self._write_timeout_s)

    async def collectable(self, tenant: str | None = None) -> list[Version]:
        """The versions that no alias and no pin needs, as the snapshot knows them."""
        return self.snapshot.collectable(tenant)

    async def _write(self, script: str, tenant: str, name: str, **arguments: Any) -> Reply:
        check_name("tenant", tenant)
        check_name("name", name)
        if not self.live:
            raise RegistryUnavailable("registry: Redis is away; nothing was changed, serving goes on")
        epoch, snapshot = self._feed.epoch, self.snapshot
        request = {"birth": snapshot.birth, "since": snapshot.revision, "tenant": tenant, "name": name, **arguments}
        reply = await self._store.write(script, request, self._write_timeout_s)
        try:
            # After a reload these events may belong to a state that Redis has lost.
            if self._feed.epoch != epoch:
                raise OutOfOrder("the registry was read again meanwhile")
            self._feed.advance(reply.changes)
        except OutOfOrder as error:
            raise RegistryUnavailable(f"registry: {error}; whether the change was made is unknown") from error
        return reply

    def _after(self, reply: Reply, tenant: str, name: str, number: int | None = None) -> Adapter:
        if reply.status == "unknown_version":
            raise UnknownVersion("version", number, f"is no version of adapter {name!r}")
        if reply.status == "unknown_adapter":
            raise UnknownAdapter("adapter", name, "does not exist")
        return self.snapshot.adapter(tenant, name)


def _moved(alias: str, header: Header | None, expected: int) -> str:
    current = header.aliases.get(alias) if header else None
    now = "is absent" if current is None else f"points to v{current}"
    return f"alias {alias!r} {now}, expected {f'v{expected}' if expected else 'it to be absent'}"


def _changed(name: str, current: Composition | None, expected: str) -> str:
    now = "does not exist" if current is None else f"is {current.expression!r}"
    return f"composition {name!r} {now}, expected {repr(expected) if expected else 'it to be absent'}"


def _users(header: Header | None, number: int) -> str:
    if header is None:
        return "unknown"
    users = [f"alias {alias}" for alias, target in sorted(header.aliases.items()) if target == number]
    return ", ".join([*users, "pinned"] if number in header.pins else users)
