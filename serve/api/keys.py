"""/v1/keys and /v1/tenants: who may ask, for whom, and how much."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from polyad.adapters_store.names import NAME_RULE, check_name
from polyad.adapters_store.registry import Key, Limits
from polyad.serve.api.access import Admin, Asking
from polyad.serve.api.adapters import Limit
from polyad.serve.api.errors import documented_errors
from polyad.serve.api.route import Route
from polyad.serve.api.schemas import Body
from polyad.serve.service import TenantService

_TENANT_RULE = f"Tenant: {NAME_RULE}"
_KEY_EXAMPLE: dict[str, Any] = {
    "object": "key",
    "key": "0f3a9c11d2e4",
    "tenant": "acme",
    "role": "publisher",
    "label": "build server",
    "created": 1767225600.0,
}
_LIMITS_EXAMPLE: dict[str, Any] = {
    "weight": 2.0,
    "max_adapters": 100,
    "max_bytes": 10_000_000_000,
    "requests_per_minute": 600,
    "max_running": 32,
}


class KeyOut(BaseModel):
    """A key, by the part of it that is no secret."""

    model_config = ConfigDict(json_schema_extra={"example": _KEY_EXAMPLE})

    object: Literal["key"] = "key"
    key: str
    tenant: str
    role: str
    label: str
    created: float

    @classmethod
    def of(cls, key: Key) -> "KeyOut":
        return cls(key=key.name, tenant=key.tenant, role=key.role, label=key.label, created=key.created)


class NewKey(KeyOut):
    """A key that was made just now: `secret` is its text, which is shown this once."""

    model_config = ConfigDict(json_schema_extra={"example": {**_KEY_EXAMPLE, "secret": "polyad_0f3a9c11d2e4_..."}})

    secret: str


class KeyPage(BaseModel):
    """A page of keys; `after` is the cursor for the next one, null at the end."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"object": "list", "data": [_KEY_EXAMPLE], "after": "0f3a9c11d2e4"}}
    )

    object: Literal["list"] = "list"
    data: list[KeyOut]
    after: str | None


class CreateKey(Body):
    """`tenant` is the caller's own where it is not given."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"example": {"tenant": "acme", "role": "publisher", "label": "build server"}},
    )

    tenant: Annotated[str | None, Field(description=_TENANT_RULE)] = None
    role: Literal["user", "publisher", "admin"] = "user"
    label: str = ""


class RevokedKey(BaseModel):
    """Which key is none any more."""

    model_config = ConfigDict(json_schema_extra={"example": {"object": "deleted", "key": "0f3a9c11d2e4"}})

    object: Literal["deleted"] = "deleted"
    key: str


class LimitsBody(Limits):
    """What a tenant may have and use, null: as much as it wants; and its weight where tenants share the engine."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"example": _LIMITS_EXAMPLE})


class TenantOut(LimitsBody):
    """A tenant's limits, and what it has."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"object": "tenant", "tenant": "acme", **_LIMITS_EXAMPLE, "adapters": 3, "bytes": 2_764_800}
        }
    )

    object: Literal["tenant"] = "tenant"
    tenant: str
    adapters: int
    bytes: int


def keys_router(service: TenantService) -> APIRouter:
    """The routes for admins of tenants."""
    errors = documented_errors(400, 401, 403, 404, 409, 413, 503)
    router = APIRouter(tags=["tenants"], dependencies=[Admin], responses=errors, route_class=Route)
    _add_keys(router, service)
    _add_tenants(router, service)
    return router


def _add_keys(router: APIRouter, service: TenantService) -> None:
    @router.post("/v1/keys", summary="Make a key", status_code=201)
    async def create_key(caller: Asking, body: CreateKey) -> NewKey:
        key, secret = await service.create_key(caller, body.tenant, body.role, body.label)
        return NewKey(**KeyOut.of(key).model_dump(), secret=secret)

    @router.get("/v1/keys", summary="List a tenant's keys")
    async def list_keys(
        caller: Asking,
        tenant: Annotated[str | None, Query(description=_TENANT_RULE)] = None,
        limit: Limit = 100,
        after: Annotated[str | None, Query()] = None,
    ) -> KeyPage:
        if after is not None:
            check_name("after", after)
        page = service.keys(caller, tenant, after, limit + 1)
        data = [KeyOut.of(key) for key in page[:limit]]
        return KeyPage(data=data, after=data[-1].key if len(page) > limit else None)

    @router.delete("/v1/keys/{key}", summary="Revoke a key, on every server")
    async def revoke_key(caller: Asking, key: Annotated[str, Path(examples=["0f3a9c11d2e4"])]) -> RevokedKey:
        await service.revoke_key(caller, key)
        return RevokedKey(key=key)


def _add_tenants(router: APIRouter, service: TenantService) -> None:
    TenantInPath = Annotated[str, Path(description=_TENANT_RULE, examples=["acme"])]

    def shown(tenant: str, limits: Limits) -> TenantOut:
        adapters, size = service.usage(tenant)
        fields = {name: getattr(limits, name) for name in Limits.model_fields}
        return TenantOut(tenant=tenant, adapters=adapters, bytes=size, **fields)

    @router.get("/v1/tenants/{tenant}", summary="Show a tenant's limits, and what it has")
    async def show_tenant(caller: Asking, tenant: TenantInPath) -> TenantOut:
        return shown(tenant, service.limits(caller, tenant))

    @router.put("/v1/tenants/{tenant}", summary="Set a tenant's limits")
    async def set_tenant(caller: Asking, tenant: TenantInPath, body: LimitsBody) -> TenantOut:
        return shown(tenant, await service.set_limits(caller, tenant, body))
