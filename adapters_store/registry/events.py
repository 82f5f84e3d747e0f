"""What subscribers of the registry hear."""

from collections.abc import Mapping
from typing import Literal, TypeAlias

from polyad.adapters_store.registry.records import Composition, Header, Record, Version

ADAPTER: Literal["adapter"] = "adapter"
COMPOSITION: Literal["composition"] = "composition"


class Change(Record):
    """One write, to an adapter or to a saved composition: `noun` says which.

    `kind` is for logs and metrics, the other fields say all. `header` or `composition` is what it is after the write,
    None if it was deleted; `version` is one that came into being, `removed` the number of one that was deleted.
    Revisions count all writes of the registry, without gaps.
    """

    kind: str
    birth: str
    revision: int
    tenant: str
    name: str
    noun: Literal["adapter", "composition"] = ADAPTER
    header: Header | None = None
    version: Version | None = None
    removed: int | None = None
    composition: Composition | None = None

    @property
    def removes_versions(self) -> bool:
        """Whether versions that were there before it are gone."""
        return self.noun == ADAPTER and (self.header is None or self.removed is not None)

    @classmethod
    def parse(cls, entry: str, fields: Mapping[str, str]) -> "Change":
        record, version, removed = fields["record"], fields.get("version"), fields.get("removed")
        of_adapter = fields["noun"] == ADAPTER
        return cls(
            kind=fields["kind"],
            birth=fields["birth"],
            revision=int(entry.partition("-")[0]),
            tenant=fields["tenant"],
            name=fields["name"],
            noun=ADAPTER if of_adapter else COMPOSITION,
            header=Header.model_validate_json(record) if record and of_adapter else None,
            version=Version.model_validate_json(version) if version else None,
            removed=int(removed) if removed else None,
            composition=Composition.model_validate_json(record) if record and not of_adapter else None,
        )


class Reloaded(Record):
    """The whole snapshot was read again; anything may have changed."""

    revision: int


Event: TypeAlias = Change | Reloaded
