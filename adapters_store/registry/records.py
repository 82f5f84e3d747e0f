"""What the registry keeps: adapters with their immutable versions, saved compositions, keys, and what tenants may."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Record(BaseModel):
    # Fields that a newer server wrote are ignored: servers of two releases may share one Redis.
    model_config = ConfigDict(frozen=True, extra="ignore")


class VersionDraft(Record):
    """What a caller says about a version; the registry adds its number and its time."""

    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]
    base: str
    rank: Annotated[int, Field(ge=0)]
    targets: tuple[str, ...]
    source: str
    # what every version was before there were kinds
    kind: str = "lora"
    # how a merge was made: its recipe, canonical JSON
    recipe: str | None = None
    # of versions that were trained from feedback: the run, its data, the digests of what it went on from
    run: str | None = None
    data: str | None = None
    parents: tuple[str, ...] = ()
    # turned down by the gate: to be looked at, never served
    quarantined: bool = False

    @field_validator("targets")
    @classmethod
    def _sorted(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(targets))


class Version(VersionDraft):
    """One immutable state of an adapter. `size` is in bytes, `created` in Unix seconds."""

    tenant: str
    adapter: str
    number: int
    created: float
    pinned: bool = False

    @property
    def label(self) -> str:
        return f"v{self.number}"

    @property
    def name(self) -> str:
        """How people name it: support@v3."""
        return f"{self.adapter}@{self.label}"


class MergedVersion(Version):
    """What a merge came to: no version of an adapter, but served like one. `adapter` is its text, over `merged`."""

    number: int = 0
    merged: tuple[Version, ...] = ()

    @property
    def name(self) -> str:
        return self.adapter


class MergeEntry(Record):
    """A merge that was computed, by its recipe's digest. `text` names the versions that it is made of."""

    tenant: str
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    text: str
    recipe: str
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]
    base: str
    rank: int
    targets: tuple[str, ...]
    created: float
    report: dict[str, Any]


class Header(Record):
    """An adapter without its versions: what every event carries whole."""

    tenant: str
    name: str
    created: float
    revision: int
    aliases: dict[str, int]
    pins: dict[int, bool]


class Adapter(Record):
    """A named fine-tune of one tenant. The dicts belong to the snapshot: read them, never change them."""

    tenant: str
    name: str
    created: float
    revision: int
    aliases: dict[str, int]
    versions: dict[int, Version]

    @classmethod
    def of(cls, header: Header, versions: dict[int, Version]) -> "Adapter":
        fields: dict[str, Any] = {name: getattr(header, name) for name in ("tenant", "name", "created", "revision")}
        return cls(**fields, aliases=header.aliases, versions=_pinned(versions, header.pins))


class Composition(Record):
    """An expression that was given a name, which no adapter of the tenant has. Only its readers know its language."""

    tenant: str
    name: str
    expression: str
    created: float
    revision: int


RoleName: TypeAlias = Literal["user", "publisher", "admin"]


class Key(Record):
    """An API key: `digest` is the SHA-256 of its text, which only its owner has; `name` is the part that is shown."""

    tenant: str
    name: str
    role: RoleName
    label: str
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created: float
    revision: int


class Limits(Record):
    """What one tenant may have and use (None: as much as it wants), and its weight where tenants share the engine."""

    weight: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    max_adapters: Annotated[int | None, Field(ge=0, le=10**9)] = None
    max_bytes: Annotated[int | None, Field(ge=0, le=10**14)] = None
    requests_per_minute: Annotated[int | None, Field(ge=0, le=10**9)] = None
    max_running: Annotated[int | None, Field(ge=0, le=10**9)] = None


class Tenant(Limits):
    """A tenant whose limits were set; its `name` is its `tenant`."""

    tenant: str
    name: str
    created: float
    revision: int


def _pinned(versions: dict[int, Version], pins: dict[int, bool]) -> dict[int, Version]:
    return {
        number: version if version.pinned == (number in pins) else version.model_copy(update={"pinned": number in pins})
        for number, version in versions.items()
    }
