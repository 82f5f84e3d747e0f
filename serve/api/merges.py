"""/v1/merges: merges as jobs, with their results and reports."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, WithJsonSchema

from polyad.serve.api.access import Asking, Publisher
from polyad.serve.api.errors import documented_errors
from polyad.serve.api.route import Route
from polyad.serve.api.schemas import DIGEST, MAX_PAGE, Alias, Body, Name
from polyad.serve.compose.json_schema import TEXT_OR_FORM
from polyad.serve.service import CompositionService, Job, MergeService, Saved

MergeId = Annotated[str, Path(description="Id of a merge: the digest of its recipe.", examples=[DIGEST])]

_MERGE_EXAMPLE: dict[str, Any] = {
    "object": "merge",
    "id": DIGEST,
    "expression": "ties(support@v1, tone@v2*0.5; density=0.2)",
    "status": "done",
    "done": 210,
    "of": 210,
    "created": 1767225600.0,
    "digest": DIGEST,
    "size": 7372800,
    "rank": 64,
    "relative_error": 0.08,
    "report": {"method": "ties", "variant": "mergekit", "conflict": 0.31, "density": 0.38},
    "version": "both@v1",
    "error": None,
}


class MergeOut(BaseModel):
    """A merge. `expression` names the versions; `done` modules `of` so many; `relative_error` is what compression
    lost."""

    model_config = ConfigDict(json_schema_extra={"example": _MERGE_EXAMPLE})

    object: Literal["merge"] = "merge"
    id: str
    expression: str
    status: Literal["queued", "running", "done", "failed"]
    done: int
    of: int
    created: float
    digest: str | None
    size: int | None
    rank: int | None
    relative_error: float | None
    report: dict[str, Any] | None
    version: str | None = None
    error: str | None = None

    @classmethod
    def from_job(cls, job: Job) -> "MergeOut":
        entry = job.entry
        return cls(
            id=job.id,
            expression=job.text,
            status=job.status,
            done=job.done,
            of=job.of,
            created=job.created,
            digest=entry.digest if entry else None,
            size=entry.size if entry else None,
            rank=entry.rank if entry else None,
            relative_error=entry.report.get("relative_error") if entry else None,
            report=entry.report if entry else None,
            version=job.version.name if job.version else None,
            error=job.error,
        )


class MergeList(BaseModel):
    """Merges that are computed here now, and results, the last used first."""

    model_config = ConfigDict(json_schema_extra={"example": {"object": "list", "data": [_MERGE_EXAMPLE]}})

    object: Literal["list"] = "list"
    data: list[MergeOut]


class SaveMerge(Body):
    """The adapter that the result becomes a version of, and an alias for it."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"example": {"name": "both", "alias": "canary"}}
    )

    name: Name
    alias: Alias | None = None


class SubmitMerge(Body):
    """A merge, or a blend that is to be written out."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"example": {"expression": "ties(support, tone*0.5; density=0.2)", "save": {"name": "both"}}},
    )

    expression: Annotated[Any, WithJsonSchema(TEXT_OR_FORM)]
    save: SaveMerge | None = None


def merges_router(service: MergeService, compositions: CompositionService) -> APIRouter:
    """The routes over the merges of the caller's tenant."""

    def mine(caller: Asking) -> MergeService:
        return service.of(caller.tenant)

    Mine = Annotated[MergeService, Depends(mine)]
    errors = documented_errors(400, 401, 403, 404, 409, 413, 503)
    router = APIRouter(prefix="/v1/merges", tags=["merges"], responses=errors, route_class=Route)

    @router.post("", summary="Compute a merge", status_code=202, dependencies=[Publisher])
    async def submit_merge(own: Mine, body: SubmitMerge) -> MergeOut:
        saved = None if body.save is None else Saved(name=body.save.name, alias=body.save.alias)
        return MergeOut.from_job(await own.submit(compositions.read(body.expression, "expression"), saved))

    @router.get("", summary="List merges")
    async def list_merges(own: Mine, limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100) -> MergeList:
        return MergeList(data=[MergeOut.from_job(job) for job in (await own.jobs())[:limit]])

    @router.get("/{id}", summary="Show a merge")
    async def show_merge(own: Mine, id: MergeId) -> MergeOut:
        return MergeOut.from_job(await own.job(id))

    @router.delete("/{id}", summary="End a merge that is being computed", dependencies=[Publisher])
    async def cancel_merge(own: Mine, id: MergeId) -> MergeOut:
        return MergeOut.from_job(await own.cancel(id))

    return router


async def prepare_merges(body: object, service: MergeService) -> None:
    """Have the merges in a request's `model` computed. Raises what `MergeService.prepare` raises."""
    model = body.get("model") if isinstance(body, dict) else None
    if isinstance(model, str) and model:
        await service.prepare(model)
