"""polyad.v1.Adapters: push, show, list, delete, promote."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

from polyad.adapters_store.errors import InvalidInput, TooLarge
from polyad.adapters_store.names import PUBLIC, check_model_name, check_name, public_name
from polyad.adapters_store.registry import UNSET, Adapter, Version
from polyad.adapters_store.source import AdapterFiles
from polyad.proto import adapters_pb2, adapters_pb2_grpc
from polyad.serve.rpc.call import Context, call
from polyad.serve.service import AdapterService, Caller, Services
from polyad.serve.service.scratch_folder import scratch_folder

_DEFAULT_PAGE = 100
_MAX_PAGE = 1000
_LARGE_PIECE = 2**20
_PARTS = "one header first, then pieces of weights or initial"


class AdaptersServicer(adapters_pb2_grpc.AdaptersServicer):
    def __init__(self, services: Services, max_bytes: int) -> None:
        self._services = services
        self._max_bytes = max_bytes

    async def Upload(
        self, request_iterator: AsyncIterator[adapters_pb2.UploadRequest], context: Context
    ) -> adapters_pb2.UploadResponse:
        async with call(context, self._services.access) as caller:
            first = await anext(aiter(request_iterator), None)
            if first is None or first.WhichOneof("part") != "header":
                raise InvalidInput("part", None if first is None else first.WhichOneof("part"), _PARTS)
            header = first.header
            service, name = self._of(caller, header.name, writes=True)
            async with scratch_folder(self._services.adapters.scratch) as folder:
                files = await self._received(request_iterator, folder, header.config)
                pushed = await service.push(name, files, tuple(header.aliases))
        return adapters_pb2.UploadResponse(version=_version(pushed.version), created=pushed.created)

    async def Get(self, request: adapters_pb2.GetAdapterRequest, context: Context) -> adapters_pb2.Adapter:
        async with call(context, self._services.access) as caller:
            service, name = self._of(caller, request.name)
            return _adapter(service.adapter(name), with_versions=True)

    async def List(
        self, request: adapters_pb2.ListAdaptersRequest, context: Context
    ) -> adapters_pb2.ListAdaptersResponse:
        async with call(context, self._services.access) as caller:
            if request.limit > _MAX_PAGE:
                raise InvalidInput("limit", request.limit, f"at most {_MAX_PAGE}")
            after = check_name("after", request.after) if request.after else None
            limit = request.limit or _DEFAULT_PAGE
            service = self._services.adapters.of(PUBLIC if request.public else caller.tenant)
            page = service.page(after, limit + 1)
        shown = page[:limit]
        following = shown[-1].name if len(page) > limit else ""
        return adapters_pb2.ListAdaptersResponse(adapters=map(_adapter, shown), after=following)

    async def Delete(
        self, request: adapters_pb2.DeleteAdapterRequest, context: Context
    ) -> adapters_pb2.DeleteAdapterResponse:
        async with call(context, self._services.access) as caller:
            service, name = self._of(caller, request.name, writes=True)
            await service.delete(name)
        return adapters_pb2.DeleteAdapterResponse()

    async def SetAlias(self, request: adapters_pb2.SetAliasRequest, context: Context) -> adapters_pb2.Adapter:
        async with call(context, self._services.access) as caller:
            service, name = self._of(caller, request.name, writes=True)
            expected = (request.if_current or None) if request.HasField("if_current") else UNSET
            return _adapter(await service.set_alias(name, request.alias, request.version, expected))

    def _of(self, caller: Caller, name: str, *, writes: bool = False) -> tuple[AdapterService, str]:
        """The tenant's adapters that a name is among, and the name there."""
        public = public_name(name)
        tenant = caller.tenant if public is None else PUBLIC
        if writes:
            caller.check_writes(tenant)
        check_model_name("name", name)
        return self._services.adapters.of(tenant), name if public is None else public

    async def _received(
        self, parts: AsyncIterator[adapters_pb2.UploadRequest], folder: Path, config: bytes
    ) -> AdapterFiles:
        paths = {part: folder / part for part in ("weights", "initial")}
        received: dict[str, int] = {}
        pauses = 0
        with paths["weights"].open("wb") as weights, paths["initial"].open("wb") as initial:
            targets: dict[str, IO[bytes]] = {"weights": weights, "initial": initial}
            async for request in parts:
                part = request.WhichOneof("part")
                if part not in targets:
                    raise InvalidInput("part", part, _PARTS)
                piece: bytes = getattr(request, part)
                received[part] = received.get(part, 0) + len(piece)
                if received[part] > self._max_bytes:
                    raise TooLarge(part, f"more than {self._max_bytes}", f"at most {self._max_bytes} bytes")
                await asyncio.to_thread(targets[part].write, piece)
                if (large_pieces := sum(received.values()) // _LARGE_PIECE) > pauses:
                    pauses = large_pieces
                    await self._services.adapters.pace.pause()
        if "weights" not in received:
            raise InvalidInput("weights", None, "the bytes of adapter_model.safetensors")
        return AdapterFiles(config, paths["weights"], "upload", paths["initial"] if "initial" in received else None)


def _adapter(adapter: Adapter, with_versions: bool = False) -> adapters_pb2.Adapter:
    numbers = sorted(adapter.versions, reverse=True) if with_versions else ()
    return adapters_pb2.Adapter(
        name=adapter.name,
        created=adapter.created,
        aliases={alias: f"v{number}" for alias, number in adapter.aliases.items()},
        versions=[_version(adapter.versions[number]) for number in numbers],
        version_count=len(adapter.versions),
    )


def _version(version: Version) -> adapters_pb2.Version:
    return adapters_pb2.Version(
        adapter=version.adapter,
        version=version.label,
        digest=version.digest,
        size=version.size,
        created=version.created,
        kind=version.kind,
        rank=version.rank,
        targets=version.targets,
        source=version.source,
        pinned=version.pinned,
    )
