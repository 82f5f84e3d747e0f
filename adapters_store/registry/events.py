"""What subscribers of the registry hear."""

from collections.abc import Mapping
from typing import TypeAlias

from polyad.adapters_store.registry.records import Header, Record, Version


class Change(Record):
    """One write. `header` is the adapter after it, None if it was deleted.

    `kind` is for logs and metrics, the other fields say all: `version` is one that came into being, `removed`
    the number of one that was deleted. Revisions count all writes of the registry, without gaps.
    """

    kind: str
    birth: str
    revision: int
    tenant: str
    name: str
    header: Header | None = None
    version: Version | None = None
    removed: int | None = None

    @classmethod
    def parse(cls, entry: str, fields: Mapping[str, str]) -> "Change":
        header, version, removed = fields.get("header"), fields.get("version"), fields.get("removed")
        return cls(
            kind=fields["kind"],
            birth=fields["birth"],
            revision=int(entry.partition("-")[0]),
            tenant=fields["tenant"],
            name=fields["name"],
            header=Header.model_validate_json(header) if header else None,
            version=Version.model_validate_json(version) if version else None,
            removed=int(removed) if removed else None,
        )


class Reloaded(Record):
    """The whole snapshot was read again; anything may have changed."""

    revision: int


Event: TypeAlias = Change | Reloaded
