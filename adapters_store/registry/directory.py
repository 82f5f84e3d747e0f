"""Records of one kind, found by tenant and name, and listed in the order of their names."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar


class Named(Protocol):
    """What a directory can hold."""

    @property
    def tenant(self) -> str: ...

    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=Named)


class Directory(Generic[N]):
    def __init__(self, records: Iterable[N] = ()) -> None:
        self._records = {(record.tenant, record.name): record for record in records}
        self._names: dict[str, list[str]] = {}
        for tenant, name in sorted(self._records):
            self._names.setdefault(tenant, []).append(name)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[N]:
        return iter(self._records.values())

    def get(self, tenant: str, name: str) -> N | None:
        return self._records.get((tenant, name))

    def count(self, tenant: str) -> int:
        """How many records the tenant has."""
        return len(self._names.get(tenant, ()))

    def page(self, tenant: str, after: str | None, limit: int) -> list[N]:
        """At most `limit` records of the tenant, by name, beginning behind `after`."""
        names = self._names.get(tenant, [])
        start = bisect_right(names, after) if after is not None else 0
        return [self._records[tenant, name] for name in names[start : start + limit]]

    def put(self, record: N) -> None:
        """Add a record, or replace the one by its name."""
        key = (record.tenant, record.name)
        if key not in self._records:
            insort(self._names.setdefault(record.tenant, []), record.name)
        self._records[key] = record

    def drop(self, tenant: str, name: str) -> None:
        del self._records[tenant, name]
        names = self._names[tenant]
        del names[bisect_left(names, name)]
        if not names:
            del self._names[tenant]
