"""/health, /ready, /version, /metrics live beside the models; collection is an operator's act."""

from importlib.metadata import version as installed_version

from fastapi import APIRouter, Response

from polyad.adapters_store.base_model import BaseModel
from polyad.serve.api.access import Admin, Asking
from polyad.serve.api.errors import RETRY_AFTER_S, documented_errors
from polyad.serve.api.route import Route
from polyad.serve.api.schemas import Alive, Collect, CollectedOut, Ready, VersionInfo, VersionOut
from polyad.serve.engine.version import engine_version
from polyad.serve.service import Collector, Health


def operations_router(health: Health, collector: Collector, base: BaseModel) -> APIRouter:
    """Routes for those who run the server."""
    router = APIRouter(tags=["operations"], route_class=Route)
    versions = VersionInfo(
        version=installed_version("polyad"),
        engine=engine_version(),
        base_model=base.name,
        base_fingerprint=base.fingerprint,
    )

    @router.get("/health", summary="Whether the process is alive")
    async def alive() -> Alive:
        return Alive()

    @router.get("/ready", summary="Whether requests are served", responses={503: {"model": Ready}})
    async def ready(response: Response) -> Ready:
        state = health.readiness()
        if not state.ready:
            response.status_code, response.headers["Retry-After"] = 503, str(RETRY_AFTER_S)
        return Ready.model_validate({"status": state.status, "engine": state.engine, "registry": state.registry})

    @router.get("/version", summary="Versions of polyad, its engine and the base model")
    async def version() -> VersionInfo:
        return versions

    @router.post(
        "/v1/collections",
        summary="Remove versions that nothing needs, and bytes, which admins of the tenant public alone may",
        responses=documented_errors(400, 401, 403, 409, 413, 503),
        dependencies=[Admin],
    )
    async def collect(caller: Asking, body: Collect) -> CollectedOut:
        collected = await collector.of(caller.tenant).collect(body.dry_run, with_bytes=caller.operator)
        data = [VersionOut.of(version) for version in collected.versions]
        return CollectedOut(dry_run=body.dry_run, versions=data, blobs=collected.blobs)

    return router
