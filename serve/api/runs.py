"""/v1/runs: trainings of adapters, and /v1/adapters/{name}/policy, which says when they happen."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from polyad.adapters_store.feedback import Policy
from polyad.serve.api.access import Admin, Asking
from polyad.serve.api.adapters import Limit, NameInPath
from polyad.serve.api.errors import documented_errors
from polyad.serve.api.learning_schemas import BeginRun, Decisions, PolicyOut, RunOut, RunPage, SetPolicy
from polyad.serve.api.route import Route
from polyad.serve.service import LearningService

Id = Annotated[str, Path(max_length=64, description="A run's id.", examples=["run-0f3a0f3a0f3a0f3a"])]


def runs_router(service: LearningService) -> APIRouter:
    """The routes for the runs and policies of all tenants; each sees its own."""
    errors = documented_errors(400, 401, 403, 404, 409, 413, 503)
    router = APIRouter(tags=["runs"], responses=errors, route_class=Route)
    _add_runs(router, service)
    _add_orders(router, service)
    _add_policies(router, service)
    return router


def _add_runs(router: APIRouter, service: LearningService) -> None:
    @router.post("/v1/runs", summary="Train an adapter now", status_code=201, dependencies=[Admin])
    async def begin(body: BeginRun, caller: Asking) -> RunOut:
        return RunOut.of(await service.begin_run(caller.tenant, body.adapter))

    @router.get("/v1/runs", summary="List runs, newest first")
    async def list_runs(
        caller: Asking,
        limit: Limit = 100,
        after: Annotated[str | None, Query(max_length=64, examples=["run-0f3a0f3a0f3a0f3a"])] = None,
    ) -> RunPage:
        page = await service.runs(caller.tenant, after, limit + 1)
        data = [RunOut.of(run) for run in page[:limit]]
        return RunPage(data=data, after=data[-1].id if len(page) > limit else None)

    @router.get("/v1/runs/{id}", summary="Show a run")
    async def show(id: Id, caller: Asking) -> RunOut:
        return RunOut.of(await service.run(caller.tenant, id))

    @router.get("/v1/runs/{id}/decisions", summary="What a run decided for each example", dependencies=[Admin])
    async def decisions(id: Id, caller: Asking) -> Decisions:
        return Decisions(data=await service.decisions(caller.tenant, id))


def _add_orders(router: APIRouter, service: LearningService) -> None:
    @router.post("/v1/runs/{id}/cancel", summary="End a run", status_code=202, dependencies=[Admin])
    async def cancel(id: Id, caller: Asking) -> RunOut:
        return RunOut.of(await service.cancel(caller.tenant, id))

    @router.post("/v1/runs/{id}/approve", summary="Publish what waits", status_code=202, dependencies=[Admin])
    async def approve(id: Id, caller: Asking) -> RunOut:
        return RunOut.of(await service.decide(caller.tenant, id, True))

    @router.post("/v1/runs/{id}/reject", summary="Turn down what waits", status_code=202, dependencies=[Admin])
    async def reject(id: Id, caller: Asking) -> RunOut:
        return RunOut.of(await service.decide(caller.tenant, id, False))


def _add_policies(router: APIRouter, service: LearningService) -> None:
    @router.get("/v1/adapters/{name}/policy", summary="How an adapter learns")
    async def show_policy(name: NameInPath, caller: Asking) -> PolicyOut:
        return PolicyOut.of(name, service.policy(caller.tenant, name), *await service.state(caller.tenant, name))

    @router.put("/v1/adapters/{name}/policy", summary="Say how an adapter learns", dependencies=[Admin])
    async def set_policy(name: NameInPath, body: SetPolicy, caller: Asking) -> PolicyOut:
        tenant = caller.tenant
        policy = await service.set_policy(tenant, name, Policy(**body.model_dump()))
        return PolicyOut.of(name, policy, *await service.state(tenant, name))
