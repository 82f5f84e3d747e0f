"""The whole registry in memory: what requests resolve against, without any I/O."""

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from polyad.adapters_store.errors import UnknownAdapter, UnknownAlias, UnknownComposition, UnknownVersion
from polyad.adapters_store.names import PRODUCTION, is_digest_prefix, version_number
from polyad.adapters_store.registry.directory import Directory
from polyad.adapters_store.registry.events import COMPOSITION, KEY, TENANT, Change
from polyad.adapters_store.registry.keys import Keys
from polyad.adapters_store.registry.records import Adapter, Composition, Header, Key, Limits, Tenant, Version

_LISTED = 10
_UNLIMITED = Limits()

_Key = tuple[str, str]


class OutOfOrder(Exception):
    """A change does not follow the snapshot: it has to be read anew. Never leaves this package."""


class Snapshot:
    """`birth` is new when the registry was set up anew or went over to a newer schema; `origin` is its first birth.
    `keyed`: whether there is an API key, or ever was one in the life of this snapshot.
    """

    def __init__(self, birth: str = "", revision: int = 0) -> None:
        self.birth = birth
        self.origin = birth
        self.revision = revision
        self._adapters: Directory[Adapter] = Directory()
        self._compositions: Directory[Composition] = Directory()
        self._tenants: Directory[Tenant] = Directory()
        self.keys = Keys()
        self.keyed = False
        self._digests: dict[_Key, list[tuple[str, int]]] = {}
        self._bytes: Counter[str] = Counter()

    @classmethod
    def build(
        cls,
        birth: str,
        revision: int,
        headers: Iterable[Header],
        versions: Iterable[Version],
        compositions: Iterable[Composition] = (),
        keys: Iterable[Key] = (),
        tenants: Iterable[Tenant] = (),
        origin: str | None = None,
    ) -> "Snapshot":
        snapshot = cls(birth, revision)
        snapshot.origin = origin or birth
        grouped: defaultdict[_Key, dict[int, Version]] = defaultdict(dict)
        for version in versions:
            grouped[version.tenant, version.adapter][version.number] = version
        snapshot._adapters = Directory(Adapter.of(header, grouped[header.tenant, header.name]) for header in headers)
        snapshot._compositions = Directory(compositions)
        snapshot._tenants = Directory(tenants)
        snapshot.keys = Keys(keys)
        snapshot.keyed = bool(snapshot.keys)
        snapshot._digests = {
            (adapter.tenant, adapter.name): sorted((one.digest, number) for number, one in adapter.versions.items())
            for adapter in snapshot._adapters
        }
        for adapter in snapshot._adapters:
            snapshot._bytes[adapter.tenant] += _size(adapter)
        return snapshot

    def find_adapter(self, tenant: str, name: str) -> Adapter | None:
        """The adapter, or None."""
        return self._adapters.get(tenant, name)

    def adapter(self, tenant: str, name: str) -> Adapter:
        """The adapter; raise UnknownAdapter."""
        adapter = self.find_adapter(tenant, name)
        if adapter is None:
            raise UnknownAdapter("adapter", name, "does not exist")
        return adapter

    def resolve(self, tenant: str, name: str, reference: str = PRODUCTION) -> Version:
        """The version that `v3`, an alias or a digest prefix means now.

        Raise UnknownAdapter, UnknownAlias, or UnknownVersion (also when a digest prefix fits several versions).
        """
        adapter = self.adapter(tenant, name)
        number = adapter.aliases.get(reference)
        if number is None:
            number = version_number(reference)
        if number is None and is_digest_prefix(reference):
            number = self._with_digest(tenant, name, reference)
        if number is None:
            listed = ", ".join(sorted(adapter.aliases)[:_LISTED]) or "none"
            raise UnknownAlias("alias", reference, f"is no alias of adapter {name!r}; it has: {listed}")
        version = adapter.versions.get(number)
        if version is None:
            raise UnknownVersion("version", reference, f"is no version of adapter {name!r}")
        return version

    def find_version(self, tenant: str, name: str, number: int) -> Version | None:
        """The version, or None."""
        adapter = self._adapters.get(tenant, name)
        return adapter.versions.get(number) if adapter is not None else None

    def pinned(self) -> Iterator[Version]:
        """Every pinned version of any tenant."""
        return (version for adapter in self._adapters for version in adapter.versions.values() if version.pinned)

    def page(self, tenant: str, after: str | None, limit: int) -> list[Adapter]:
        """At most `limit` adapters of the tenant, by name, beginning behind `after`."""
        return self._adapters.page(tenant, after, limit)

    def find_composition(self, tenant: str, name: str) -> Composition | None:
        """The saved composition, or None."""
        return self._compositions.get(tenant, name)

    def composition(self, tenant: str, name: str) -> Composition:
        """The saved composition; raise UnknownComposition."""
        composition = self.find_composition(tenant, name)
        if composition is None:
            raise UnknownComposition("composition", name, "does not exist")
        return composition

    def compositions(self, tenant: str, after: str | None, limit: int) -> list[Composition]:
        """At most `limit` saved compositions of the tenant, by name, beginning behind `after`."""
        return self._compositions.page(tenant, after, limit)

    @property
    def count(self) -> int:
        """Adapters of all tenants."""
        return len(self._adapters)

    def limits(self, tenant: str) -> Limits:
        """What was set for the tenant; no limits if nothing was."""
        return self._tenants.get(tenant, tenant) or _UNLIMITED

    def usage(self, tenant: str) -> tuple[int, int]:
        """How many adapters the tenant has, and the bytes of all their versions."""
        return self._adapters.count(tenant), self._bytes[tenant]

    def digests(self) -> set[str]:
        """Every digest that any version of any tenant refers to."""
        return {digest for digests in self._digests.values() for digest, _ in digests}

    def collectable(self, tenant: str | None = None) -> list[Version]:
        """The versions (of one tenant or of all) that no alias and no pin needs."""
        return [
            version
            for adapter in self._adapters
            if tenant is None or adapter.tenant == tenant
            for number, version in adapter.versions.items()
            if not version.pinned and number not in adapter.aliases.values()
        ]

    def apply(self, change: Change) -> bool:
        """Apply one change; False if the snapshot has it already. Raise OutOfOrder if some are missing before it."""
        if change.birth != self.birth or change.revision > self.revision + 1:
            raise OutOfOrder(f"change {change.revision} does not follow revision {self.revision}")
        if change.revision <= self.revision:
            return False
        self._apply(change)
        self.revision = change.revision
        return True

    def replace(self, other: "Snapshot") -> None:
        """Become the other snapshot, in one step, for all who hold this one."""
        self.birth, self.origin, self.revision = other.birth, other.origin, other.revision
        self._adapters, self._digests = other._adapters, other._digests
        self._compositions, self._tenants = other._compositions, other._tenants
        self.keys, self._bytes = other.keys, other._bytes
        # Keys that were lost with Redis's data must not open what they kept closed.
        self.keyed = self.keyed or other.keyed

    def _apply(self, change: Change) -> None:
        directories: dict[str, Any] = {COMPOSITION: self._compositions, KEY: self.keys, TENANT: self._tenants}
        directory, record = directories.get(change.noun), change.record
        if directory is not None and record is None:
            directory.drop(change.tenant, change.name)
        elif directory is not None:
            directory.put(record)
            self.keyed = self.keyed or change.noun == KEY
        elif isinstance(record, Header):
            self._put(record, change.version, change.removed)
        else:
            self._bytes[change.tenant] -= _size(self.adapter(change.tenant, change.name))
            self._adapters.drop(change.tenant, change.name)
            del self._digests[change.tenant, change.name]

    def _put(self, header: Header, version: Version | None, removed: int | None) -> None:
        key = (header.tenant, header.name)
        old = self._adapters.get(*key)
        versions = dict(old.versions) if old else {}
        digests = self._digests.setdefault(key, [])
        if version is not None:
            versions[version.number] = version
            insort(digests, (version.digest, version.number))
        if removed is not None:
            digests.remove((versions.pop(removed).digest, removed))
        adapter = Adapter.of(header, versions)
        self._bytes[header.tenant] += _size(adapter) - (_size(old) if old else 0)
        self._adapters.put(adapter)

    def _with_digest(self, tenant: str, name: str, prefix: str) -> int:
        digests = self._digests[tenant, name]
        start = bisect_left(digests, (prefix, 0))
        found = [number for digest, number in digests[start : start + 2] if digest.startswith(prefix)]
        if len(found) != 1:
            problem = "fits several versions" if found else "is the beginning of no digest"
            raise UnknownVersion("version", prefix, f"{problem} of adapter {name!r}")
        return found[0]


def _size(adapter: Adapter) -> int:
    return sum(version.size for version in adapter.versions.values())
