"""The JSON bodies of polyad's own routes."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from polyad.adapters_store.names import ALIAS_RULE, NAME_RULE, VERSION_RULE
from polyad.adapters_store.registry import Adapter, Version

MAX_PAGE = 1000
DIGEST = "0f3a" * 16

Name = Annotated[str, Field(description=f"Name of an adapter: {NAME_RULE}.", examples=["support"])]
Alias = Annotated[str, Field(description=f"Alias: {ALIAS_RULE}.", examples=["production"])]
Reference = Annotated[str, Field(description=f"Version: {VERSION_RULE}.", examples=["v2"])]

_VERSION_EXAMPLE: dict[str, Any] = {
    "object": "adapter.version",
    "adapter": "support",
    "version": "v2",
    "digest": DIGEST,
    "size": 921600,
    "created": 1767225600.0,
    "kind": "lora",
    "rank": 8,
    "targets": ["q_proj", "v_proj"],
    "source": "upload",
    "pinned": False,
    "aliases": ["production"],
    "recipe": None,
    "run": None,
    "parents": [],
    "quarantined": False,
}
_ADAPTER_EXAMPLE: dict[str, Any] = {
    "object": "adapter",
    "name": "support",
    "created": 1767225600.0,
    "aliases": {"previous": "v1", "production": "v2"},
    "versions": 2,
    "latest": "v2",
    "kind": "lora",
}


class Body(BaseModel):
    """A request body: what it does not know, it refuses."""

    model_config = ConfigDict(extra="forbid", strict=True)


class VersionOut(BaseModel):
    """One immutable version of an adapter. `size` in bytes, `created` in Unix seconds; `recipe` is how a merge was
    made.

    `run` is the run that trained it, from the versions with the digests in `parents`; what its gate turned down is
    `quarantined`: it can be looked at, and is never served.
    """

    model_config = ConfigDict(json_schema_extra={"example": _VERSION_EXAMPLE})

    object: Literal["adapter.version"] = "adapter.version"
    adapter: str
    version: str
    digest: str
    size: int
    created: float
    kind: str
    rank: int
    targets: list[str]
    source: str
    pinned: bool
    aliases: list[str]
    recipe: dict[str, Any] | None = None
    run: str | None = None
    parents: list[str] = Field(default_factory=list)
    quarantined: bool = False

    @classmethod
    def of(cls, version: Version, adapter: Adapter | None = None) -> "VersionOut":
        aliases = adapter.aliases.items() if adapter else ()
        return cls(
            adapter=version.adapter,
            version=version.label,
            digest=version.digest,
            size=version.size,
            created=version.created,
            kind=version.kind,
            rank=version.rank,
            targets=list(version.targets),
            source=version.source,
            pinned=version.pinned,
            aliases=sorted(alias for alias, number in aliases if number == version.number),
            recipe=json.loads(version.recipe) if version.recipe else None,
            run=version.run,
            parents=list(version.parents),
            quarantined=version.quarantined,
        )


class AdapterOut(BaseModel):
    """An adapter: its aliases, how many versions it has, and of which kind the latest is."""

    model_config = ConfigDict(json_schema_extra={"example": _ADAPTER_EXAMPLE})

    object: Literal["adapter"] = "adapter"
    name: str
    created: float
    aliases: dict[str, str]
    versions: int
    latest: str | None
    kind: str | None

    @classmethod
    def of(cls, adapter: Adapter) -> "AdapterOut":
        latest = max(adapter.versions, default=None)
        return cls(
            name=adapter.name,
            created=adapter.created,
            aliases={alias: f"v{number}" for alias, number in sorted(adapter.aliases.items())},
            versions=len(adapter.versions),
            latest=f"v{latest}" if latest is not None else None,
            kind=adapter.versions[latest].kind if latest is not None else None,
        )


class AdapterPage(BaseModel):
    """A page of adapters; `after` is the cursor for the next one, null at the end."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"object": "list", "data": [_ADAPTER_EXAMPLE], "after": "support"}}
    )

    object: Literal["list"] = "list"
    data: list[AdapterOut]
    after: str | None


class VersionPage(BaseModel):
    """A page of versions, newest first; `after` is the cursor for the next one, null at the end."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"object": "list", "data": [_VERSION_EXAMPLE], "after": "v2"}}
    )

    object: Literal["list"] = "list"
    data: list[VersionOut]
    after: str | None


class PushFromSource(Body):
    """Push from somewhere else than the request's own body."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"example": {"name": "support", "source": "hf://org/repository@main", "alias": "canary"}},
    )

    name: Name
    source: Annotated[
        str, Field(max_length=2048, examples=["hf://org/repository@main", "s3://bucket/adapters/support/"])
    ]
    alias: Alias | None = None


class SetAlias(Body):
    """`if_current`, if given, makes it a compare-and-set: null means that the alias must not exist yet."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"example": {"version": "v2", "if_current": "v1"}}
    )

    version: Reference
    if_current: Annotated[str | None, Field(examples=["v1"])] = None


class Deleted(BaseModel):
    """What was deleted."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"object": "deleted", "adapter": "support", "version": "v1"}}
    )

    object: Literal["deleted"] = "deleted"
    adapter: str
    version: str | None = None


class Collect(Body):
    """`dry_run` tells what would be collected."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"example": {"dry_run": True}})

    dry_run: bool = False


class CollectedOut(BaseModel):
    """The versions and the digests of the bytes that were removed, or would be."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"dry_run": True, "versions": [_VERSION_EXAMPLE], "blobs": [DIGEST]}}
    )

    dry_run: bool
    versions: list[VersionOut]
    blobs: list[str]


class Ready(BaseModel):
    """`degraded`: requests are served from the snapshot, but nothing can be changed."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"status": "degraded", "engine": "ready", "registry": "away"}}
    )

    status: Literal["ready", "degraded", "unavailable"]
    engine: str
    registry: str


class Alive(BaseModel):
    """The process answers; whether it serves is for /ready to say."""

    model_config = ConfigDict(json_schema_extra={"example": {"status": "alive"}})

    status: Literal["alive"] = "alive"


class VersionInfo(BaseModel):
    """Versions of polyad and of the engine under it, and the base model that is served."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "version": "0.1.0",
                "engine": "vllm 0.32.0",
                "base_model": "SmolLM2-135M-Instruct",
                "base_fingerprint": DIGEST,
            }
        }
    )

    version: str
    engine: str
    base_model: str
    base_fingerprint: str
