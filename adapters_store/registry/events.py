"""What subscribers of the registry hear."""

from collections.abc import Mapping
from typing import Literal, TypeAlias

from polyad.adapters_store.registry.records import Composition, Header, Key, Record, Tenant, Version

Noun: TypeAlias = Literal["adapter", "composition", "key", "tenant"]

ADAPTER: Noun = "adapter"
COMPOSITION: Noun = "composition"
KEY: Noun = "key"
TENANT: Noun = "tenant"

_RECORDS: Mapping[str, type[Header | Composition | Key | Tenant]] = {
    ADAPTER: Header,
    COMPOSITION: Composition,
    KEY: Key,
    TENANT: Tenant,
}


class Change(Record):
    """One write, to what `noun` says.

    `kind` is for logs and metrics, the other fields say all. `record` is what it is after the write, None if it was
    deleted; `version` is one that came into being, `removed` the number of one that was deleted. Revisions count all
    writes of the registry, without gaps.
    """

    kind: str
    birth: str
    revision: int
    tenant: str
    name: str
    noun: Noun = ADAPTER
    record: Header | Composition | Key | Tenant | None = None
    version: Version | None = None
    removed: int | None = None

    @property
    def removes_versions(self) -> bool:
        """Whether versions that were there before it are gone."""
        return self.noun == ADAPTER and (self.record is None or self.removed is not None)

    @classmethod
    def parse(cls, entry: str, fields: Mapping[str, str]) -> "Change":
        record, version, removed = fields["record"], fields.get("version"), fields.get("removed")
        return cls(
            kind=fields["kind"],
            birth=fields["birth"],
            revision=int(entry.partition("-")[0]),
            tenant=fields["tenant"],
            name=fields["name"],
            noun=fields["noun"],
            record=_RECORDS[fields["noun"]].model_validate_json(record) if record else None,
            version=Version.model_validate_json(version) if version else None,
            removed=int(removed) if removed else None,
        )


class Reloaded(Record):
    """The whole snapshot was read again; anything may have changed."""

    revision: int


Event: TypeAlias = Change | Reloaded
