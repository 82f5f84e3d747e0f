"""vLLM's own adapter routes, for scripts that use them: the same bodies, the same answers, over the registry.

The folder is one of the server's own: only who runs it may name it.
"""

from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

from polyad.adapters_store.errors import Conflict, InvalidInput, UnknownAdapter
from polyad.adapters_store.names import PRODUCTION, check_name
from polyad.serve.api.access import Operator
from polyad.serve.api.errors import documented_errors
from polyad.serve.api.route import Route
from polyad.serve.service import AdapterService


class LoadAdapter(BaseModel):
    """vLLM's body. `load_inplace` lets an existing adapter get a new version, which becomes `production`."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"lora_name": "support", "lora_path": "support-2024"}}
    )

    lora_name: str
    lora_path: Annotated[str, Field(max_length=4096)]
    load_inplace: bool = False
    is_3d_lora_weight: bool = False


class UnloadAdapter(BaseModel):
    """vLLM's body."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"lora_name": "support"}})

    lora_name: str
    lora_int_id: int | None = None


def compatibility_router(service: AdapterService) -> APIRouter:
    """/v1/load_lora_adapter and /v1/unload_lora_adapter; the path must lie under the configured adapter_root."""
    errors = documented_errors(400, 401, 403, 404, 409, 413, 503)
    router = APIRouter(tags=["vLLM compatibility"], dependencies=[Operator], responses=errors, route_class=Route)

    @router.post("/v1/load_lora_adapter", summary="Push from a folder on the server", response_class=PlainTextResponse)
    async def load(body: LoadAdapter) -> str:
        check_name("lora_name", body.lora_name)
        if body.is_3d_lora_weight:
            raise InvalidInput("is_3d_lora_weight", True, "false: stacked expert weights are not supported")
        if not body.load_inplace and _exists(service, body.lora_name):
            raise Conflict("lora_name", f"{body.lora_name!r} exists; load_inplace replaces it")
        await service.push_folder(body.lora_name, body.lora_path, (PRODUCTION,))
        return f"Success: LoRA adapter '{body.lora_name}' added successfully."

    @router.post("/v1/unload_lora_adapter", summary="Delete an adapter", response_class=PlainTextResponse)
    async def unload(body: UnloadAdapter) -> str:
        await service.delete(body.lora_name)
        return f"Success: LoRA adapter '{body.lora_name}' removed successfully."

    return router


def _exists(service: AdapterService, name: str) -> bool:
    try:
        service.adapter(name)
    except UnknownAdapter:
        return False
    return True
