"""polyad.v1.Merges: merges as jobs."""

import asyncio
import json
from collections.abc import AsyncIterator

from polyad.adapters_store.errors import InvalidInput
from polyad.proto import merges_pb2, merges_pb2_grpc
from polyad.serve.rpc.call import Context, call
from polyad.serve.service import Caller, Job, MergeService, Saved, Services

_DEFAULT_PAGE = 100
_MAX_PAGE = 1000
_WATCH_S = 0.2


class MergesServicer(merges_pb2_grpc.MergesServicer):
    def __init__(self, services: Services) -> None:
        self._services = services

    async def Submit(self, request: merges_pb2.SubmitMergeRequest, context: Context) -> merges_pb2.Merge:
        async with call(context, self._services.access) as caller:
            caller.check_writes(caller.tenant)
            if request.save_alias and not request.save_name:
                raise InvalidInput("save_name", "", f"a name, for the alias {request.save_alias!r} to be of")
            saved = Saved(name=request.save_name, alias=request.save_alias or None) if request.save_name else None
            expression = self._services.compositions.read(request.expression, "expression")
            return _merge(await self._of(caller).submit(expression, saved))

    async def Get(self, request: merges_pb2.GetMergeRequest, context: Context) -> merges_pb2.Merge:
        async with call(context, self._services.access) as caller:
            return _merge(await self._of(caller).job(request.id))

    async def Watch(self, request: merges_pb2.GetMergeRequest, context: Context) -> AsyncIterator[merges_pb2.Merge]:
        async with call(context, self._services.access) as caller:
            said: merges_pb2.Merge | None = None
            while True:
                job = await self._of(caller).job(request.id)
                if (merge := _merge(job)) != said:
                    said = merge
                    yield merge
                if not job.active:
                    return
                await asyncio.sleep(_WATCH_S)

    async def List(self, request: merges_pb2.ListMergesRequest, context: Context) -> merges_pb2.ListMergesResponse:
        async with call(context, self._services.access) as caller:
            if request.limit > _MAX_PAGE:
                raise InvalidInput("limit", request.limit, f"at most {_MAX_PAGE}")
            jobs = await self._of(caller).jobs()
            return merges_pb2.ListMergesResponse(merges=map(_merge, jobs[: request.limit or _DEFAULT_PAGE]))

    async def Cancel(self, request: merges_pb2.GetMergeRequest, context: Context) -> merges_pb2.Merge:
        async with call(context, self._services.access) as caller:
            caller.check_writes(caller.tenant)
            return _merge(await self._of(caller).cancel(request.id))

    def _of(self, caller: Caller) -> MergeService:
        return self._services.merges.of(caller.tenant)


def _merge(job: Job) -> merges_pb2.Merge:
    made = merges_pb2.Merge(
        id=job.id,
        expression=job.text,
        state=job.status.upper(),
        done=job.done,
        of=job.of,
        created=job.created,
        version=job.version.name if job.version else "",
        error=job.error or "",
    )
    if job.entry is not None:
        made.digest, made.size, made.rank = job.entry.digest, job.entry.size, job.entry.rank
        made.relative_error = job.entry.report.get("relative_error", 0.0)
        made.report = json.dumps(job.entry.report)
    return made
