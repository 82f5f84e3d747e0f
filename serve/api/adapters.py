"""/v1/adapters: push, list, show, promote, delete; /v1/public/adapters: the same for what all tenants may use."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import ValidationError

from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.names import ALIAS_RULE, NAME_RULE, PUBLIC, VERSION_RULE, check_name, version_number
from polyad.adapters_store.registry import UNSET
from polyad.serve.api.access import Asking, Operator, Publisher
from polyad.serve.api.errors import documented_errors
from polyad.serve.api.route import Route, invalid_input
from polyad.serve.api.schemas import (
    MAX_PAGE,
    AdapterOut,
    AdapterPage,
    Deleted,
    PushFromSource,
    SetAlias,
    VersionOut,
    VersionPage,
)
from polyad.serve.api.upload import UPLOAD_SCHEMA, Upload
from polyad.serve.service import AdapterService, Pushed

NameInPath = Annotated[str, Path(description=f"Adapter: {NAME_RULE}", examples=["support"])]
AliasInPath = Annotated[str, Path(description=f"Alias: {ALIAS_RULE}", examples=["production"])]
VersionInPath = Annotated[str, Path(description=f"Version: {VERSION_RULE}", examples=["v2"])]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Entries per page.")]


def adapters_router(service: AdapterService, *, public: bool = False) -> APIRouter:
    """The routes over the adapters of the tenant that asks; with `public`, over those that all tenants may use."""

    def mine(caller: Asking) -> AdapterService:
        return service.of(PUBLIC if public else caller.tenant)

    errors = documented_errors(400, 401, 403, 404, 409, 413, 429, 503)
    prefix, tag = ("/v1/public/adapters", "public adapters") if public else ("/v1/adapters", "adapters")
    router = APIRouter(prefix=prefix, tags=[tag], responses=errors, route_class=Route)
    of_caller, writer = Depends(mine), Operator if public else Publisher
    _add_reading(router, of_caller)
    _add_pushing(router, of_caller, writer)
    _add_aliases(router, of_caller, writer)
    _add_removal(router, of_caller, writer)
    return router


def _add_reading(router: APIRouter, mine: Any) -> None:
    @router.get("", summary="List adapters by name")
    async def list_adapters(
        limit: Limit = 100,
        after: Annotated[str | None, Query(examples=["support"])] = None,
        service: AdapterService = mine,
    ) -> AdapterPage:
        if after is not None:
            check_name("after", after)
        page = service.page(after, limit + 1)
        data = [AdapterOut.of(adapter) for adapter in page[:limit]]
        return AdapterPage(data=data, after=data[-1].name if len(page) > limit else None)

    @router.get("/{name}", summary="Show an adapter")
    async def show_adapter(name: NameInPath, service: AdapterService = mine) -> AdapterOut:
        return AdapterOut.of(service.adapter(name))

    @router.get("/{name}/versions", summary="List an adapter's versions, newest first")
    async def list_versions(
        name: NameInPath,
        limit: Limit = 100,
        after: Annotated[str | None, Query(examples=["v2"])] = None,
        service: AdapterService = mine,
    ) -> VersionPage:
        adapter = service.adapter(name)
        below = _number_after(after)
        numbers = sorted((n for n in adapter.versions if below is None or n < below), reverse=True)
        data = [VersionOut.of(adapter.versions[number], adapter) for number in numbers[:limit]]
        return VersionPage(data=data, after=data[-1].version if len(numbers) > limit else None)

    @router.get("/{name}/versions/{version}", summary="Show a version")
    async def show_version(name: NameInPath, version: VersionInPath, service: AdapterService = mine) -> VersionOut:
        return VersionOut.of(service.version(name, version), service.adapter(name))


def _add_pushing(router: APIRouter, mine: Any, writer: Any) -> None:
    @router.post(
        "",
        summary="Push a version",
        description="Upload an adapter, or name a source. The first version of an adapter becomes `production`; "
        "the same bytes again are the same version, answered with 200.",
        status_code=201,
        response_model=VersionOut,
        responses={200: {"model": VersionOut, "description": "These bytes are a version already."}},
        openapi_extra={"requestBody": {"required": True, "content": _push_content()}},
        dependencies=[writer],
    )
    async def push(request: Request, response: Response, service: AdapterService = mine) -> VersionOut:
        pushed = await _push(request, service)
        response.status_code = 201 if pushed.created else 200
        return VersionOut.of(pushed.version, service.adapter(pushed.version.adapter))


def _add_aliases(router: APIRouter, mine: Any, writer: Any) -> None:
    @router.put("/{name}/aliases/{alias}", summary="Point an alias at a version", dependencies=[writer])
    async def set_alias(
        name: NameInPath, alias: AliasInPath, body: SetAlias, service: AdapterService = mine
    ) -> AdapterOut:
        expected = body.if_current if "if_current" in body.model_fields_set else UNSET
        return AdapterOut.of(await service.set_alias(name, alias, body.version, expected))

    @router.delete("/{name}/aliases/{alias}", summary="Delete an alias", dependencies=[writer])
    async def delete_alias(name: NameInPath, alias: AliasInPath, service: AdapterService = mine) -> AdapterOut:
        return AdapterOut.of(await service.delete_alias(name, alias))


def _add_removal(router: APIRouter, mine: Any, writer: Any) -> None:
    @router.delete("/{name}", summary="Delete an adapter with all its versions", dependencies=[writer])
    async def delete_adapter(name: NameInPath, service: AdapterService = mine) -> Deleted:
        await service.delete(name)
        return Deleted(adapter=name)

    @router.delete("/{name}/versions/{version}", summary="Delete a version that no alias needs", dependencies=[writer])
    async def delete_version(name: NameInPath, version: VersionInPath, service: AdapterService = mine) -> Deleted:
        await service.delete_version(name, version)
        return Deleted(adapter=name, version=version)

    @router.put("/{name}/versions/{version}/pin", summary="Protect a version from collection", dependencies=[writer])
    async def pin(name: NameInPath, version: VersionInPath, service: AdapterService = mine) -> VersionOut:
        adapter = await service.set_pinned(name, version, True)
        return VersionOut.of(service.version(name, version), adapter)

    @router.delete("/{name}/versions/{version}/pin", summary="End a version's protection", dependencies=[writer])
    async def unpin(name: NameInPath, version: VersionInPath, service: AdapterService = mine) -> VersionOut:
        adapter = await service.set_pinned(name, version, False)
        return VersionOut.of(service.version(name, version), adapter)


async def _push(request: Request, service: AdapterService) -> Pushed:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        async with Upload.received(request, service.pace, service.scratch) as upload:
            return await service.push(upload.name, upload.files, upload.aliases)
    if kind == "application/json":
        try:
            body = PushFromSource.model_validate_json(await request.body())
        except ValidationError as error:
            problem = error.errors(include_url=False, include_context=False)[0]
            raise invalid_input(problem["loc"], problem) from error
        return await service.push_source(body.name, body.source, (body.alias,) if body.alias is not None else ())
    raise InvalidInput("content-type", kind, "multipart/form-data or application/json")


def _push_content() -> dict[str, Any]:
    return {
        "multipart/form-data": {"schema": UPLOAD_SCHEMA},
        "application/json": {"schema": PushFromSource.model_json_schema()},
    }


def _number_after(after: str | None) -> int | None:
    number = version_number(after) if after is not None else None
    if after is not None and number is None:
        raise InvalidInput("after", after, "a version number such as v2")
    return number
