"""The HTTP application: vLLM's OpenAI routes, and ours."""

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

from polyad.adapters_store.base_model import BaseModel
from polyad.serve.api.access import Authentication
from polyad.serve.api.adapters import adapters_router
from polyad.serve.api.canary import with_canary
from polyad.serve.api.compatibility import compatibility_router
from polyad.serve.api.composition_body import with_model_text
from polyad.serve.api.compositions import compositions_router
from polyad.serve.api.document import complete_document
from polyad.serve.api.errors import add_error_handlers
from polyad.serve.api.feedback import feedback_router
from polyad.serve.api.fusion_body import FusionAnswers, without_fusion_fields
from polyad.serve.api.gate import BodyLimit, EngineGate, TenantLimit, needs_engine
from polyad.serve.api.json_body import JsonBody
from polyad.serve.api.keys import keys_router
from polyad.serve.api.media_names import check_no_media_names
from polyad.serve.api.merges import merges_router, prepare_merges
from polyad.serve.api.operations import operations_router
from polyad.serve.api.recording import Recording
from polyad.serve.api.replicas import replicas_router
from polyad.serve.api.runs import runs_router
from polyad.serve.config import MIB, Settings
from polyad.serve.engine.supervisor import Supervisor
from polyad.serve.service import Services, current_caller

_REQUEST_BYTES = 32 * MIB
_FORM_OVERHEAD_BYTES = 2 * MIB
# vLLM has one thread for all tokenizing, and bounds what it is given everywhere but here.
_TOKENIZE_BYTES = 2 * MIB
_PUSHING = frozenset({"/v1/adapters", "/v1/public/adapters"})
_TOKENIZING = frozenset({"/tokenize", "/detokenize", "/v1/messages/count_tokens"})


def complete_app(app: FastAPI, settings: Settings, base: BaseModel, supervisor: Supervisor, services: Services) -> None:
    """Add polyad's routes, errors and guards to vLLM's application."""
    app.title, app.version = "polyad", version("polyad")
    add_error_handlers(app)
    for public in (False, True):
        app.include_router(adapters_router(services.adapters, public=public))
        app.include_router(compositions_router(services.compositions, public=public))
    app.include_router(merges_router(services.merges, services.compositions))
    app.include_router(feedback_router(services.learning))
    app.include_router(runs_router(services.learning))
    app.include_router(keys_router(services.tenants))
    app.include_router(compatibility_router(services.adapters))
    app.include_router(operations_router(services.health, services.collector, base))
    app.include_router(replicas_router(services.fleet))
    complete_document(app)

    def limit(path: str) -> int:
        if path.rstrip("/") in _PUSHING:
            # weights, and those from before training
            return 2 * settings.max_adapter_bytes + _FORM_OVERHEAD_BYTES
        return _TOKENIZE_BYTES if path in _TOKENIZING else _REQUEST_BYTES

    def rewrite(path: str, body: object) -> object:
        if not needs_engine(path):
            return body
        check_no_media_names(body)
        named = with_model_text(without_fusion_fields(path, body), services.compositions)
        return with_canary(named, services.learning)

    async def prepare(path: str, body: object) -> None:
        if needs_engine(path):
            await prepare_merges(body, services.merges.of(current_caller.get().tenant))

    middleware: list[tuple[Any, dict[str, Any]]] = [
        (Recording, {"learning": services.learning}),
        (JsonBody, {"max_bytes": _REQUEST_BYTES, "rewrite": rewrite, "prepare": prepare}),
        (FusionAnswers, {}),
        (TenantLimit, {"limiter": services.limiter}),
        (EngineGate, {"ready": lambda: supervisor.ready}),
        (Authentication, {"access": services.access}),
        (BodyLimit, {"limit": limit}),
    ]
    for kind, options in middleware:  # the last one added is asked first
        app.add_middleware(kind, **options)
