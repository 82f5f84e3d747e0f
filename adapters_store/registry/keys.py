"""The API keys of all tenants, found by their digests."""

from collections.abc import Iterable

from polyad.adapters_store.registry.directory import Directory
from polyad.adapters_store.registry.records import Key


class Keys(Directory[Key]):
    def __init__(self, keys: Iterable[Key] = ()) -> None:
        known = tuple(keys)
        super().__init__(known)
        self._by_digest = {key.digest: key for key in known}

    def with_digest(self, digest: str) -> Key | None:
        """The key whose text has this SHA-256, or None."""
        return self._by_digest.get(digest)

    def put(self, record: Key) -> None:
        super().put(record)
        self._by_digest[record.digest] = record

    def drop(self, tenant: str, name: str) -> None:
        key = self.get(tenant, name)
        if key is not None:
            del self._by_digest[key.digest]
        super().drop(tenant, name)
