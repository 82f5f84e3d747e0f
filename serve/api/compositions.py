"""/v1/compositions: expressions that were given a name; /v1/public/compositions: those that all tenants may use."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, WithJsonSchema

from polyad.adapters_store.names import NAME_RULE, PUBLIC, check_name
from polyad.adapters_store.registry import Composition
from polyad.serve.api.access import Asking, Operator, Publisher
from polyad.serve.api.adapters import Limit
from polyad.serve.api.errors import documented_errors
from polyad.serve.api.route import Route
from polyad.serve.api.schemas import Body
from polyad.serve.compose.json_schema import TEXT_OR_FORM
from polyad.serve.service import CompositionService

NameInPath = Annotated[str, Path(description=f"Composition: {NAME_RULE}", examples=["helpful"])]

_COMPOSITION_EXAMPLE: dict[str, Any] = {
    "object": "composition",
    "name": "helpful",
    "expression": "support*0.7 + tone*0.3",
    "created": 1767225600.0,
}


class CompositionOut(BaseModel):
    """A saved composition. `expression` is its canonical text; the names in it mean what they mean at each request."""

    model_config = ConfigDict(json_schema_extra={"example": _COMPOSITION_EXAMPLE})

    object: Literal["composition"] = "composition"
    name: str
    expression: str
    created: float

    @classmethod
    def of(cls, composition: Composition) -> "CompositionOut":
        return cls(name=composition.name, expression=composition.expression, created=composition.created)


class CompositionPage(BaseModel):
    """A page of saved compositions; `after` is the cursor for the next one, null at the end."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"object": "list", "data": [_COMPOSITION_EXAMPLE], "after": "helpful"}}
    )

    object: Literal["list"] = "list"
    data: list[CompositionOut]
    after: str | None


class SetComposition(Body):
    """`if_current`, if given, makes it a compare-and-set: null means that the name must not stand for anything yet."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"example": {"expression": "support*0.7 + tone*0.3", "if_current": "support*0.8 + tone*0.2"}},
    )

    expression: Annotated[Any, WithJsonSchema(TEXT_OR_FORM)]
    if_current: Annotated[Any, WithJsonSchema({"anyOf": [*TEXT_OR_FORM["anyOf"], {"type": "null"}]})] = None


class DeletedComposition(BaseModel):
    """What was forgotten."""

    model_config = ConfigDict(json_schema_extra={"example": {"object": "deleted", "composition": "helpful"}})

    object: Literal["deleted"] = "deleted"
    composition: str


def compositions_router(service: CompositionService, *, public: bool = False) -> APIRouter:
    """The routes over the saved compositions of the tenant that asks, or over those that all tenants may use."""

    def of_caller(caller: Asking) -> CompositionService:
        return service.of(PUBLIC if public else caller.tenant)

    mine, writer = Depends(of_caller), Operator if public else Publisher
    errors = documented_errors(400, 401, 403, 404, 409, 413, 503)
    prefix, tag = ("/v1/public/compositions", "public compositions") if public else ("/v1/compositions", "compositions")
    router = APIRouter(prefix=prefix, tags=[tag], responses=errors, route_class=Route)

    @router.get("", summary="List saved compositions by name")
    async def list_compositions(
        limit: Limit = 100,
        after: Annotated[str | None, Query(examples=["helpful"])] = None,
        service: CompositionService = mine,
    ) -> CompositionPage:
        if after is not None:
            check_name("after", after)
        page = service.page(after, limit + 1)
        data = [CompositionOut.of(composition) for composition in page[:limit]]
        return CompositionPage(data=data, after=data[-1].name if len(page) > limit else None)

    @router.get("/{name}", summary="Show a saved composition")
    async def show_composition(name: NameInPath, service: CompositionService = mine) -> CompositionOut:
        return CompositionOut.of(service.composition(name))

    @router.put("/{name}", summary="Save a composition", dependencies=[writer])
    async def set_composition(
        name: NameInPath, body: SetComposition, service: CompositionService = mine
    ) -> CompositionOut:
        expression = service.read(body.expression, "expression")
        if "if_current" not in body.model_fields_set:
            return CompositionOut.of(await service.save(name, expression))
        expected = None if body.if_current is None else service.read(body.if_current, "if_current")
        return CompositionOut.of(await service.save(name, expression, expected))

    @router.delete("/{name}", summary="Forget a saved composition", dependencies=[writer])
    async def delete_composition(name: NameInPath, service: CompositionService = mine) -> DeletedComposition:
        await service.delete(name)
        return DeletedComposition(composition=name)

    return router
