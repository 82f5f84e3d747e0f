"""vLLM's OpenAI application, built once and pointed at each new engine."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType

from fastapi import FastAPI
from starlette.routing import BaseRoute
from vllm.entrypoints.launchers import app as vllm_app
from vllm.entrypoints.launchers.api_server import app_state

from polyad.serve.engine.catalog import Catalog
from polyad.serve.engine.engine import AdapterEngine
from polyad.serve.engine.models import AdapterModels

# Routes that polyad answers itself, that are another platform's door to the same handlers, or that we do not promise.
LEFT_OUT = frozenset(
    {
        "/health",
        "/version",
        "/ping",
        "/load",
        "/invocations",
        "/kv_event_sources",
        "/scale_elastic_ep",
        "/is_scaling_elastic_ep",
        "/v1/systemone",
        "/generative_scoring",
    }
)


class NeverExits:
    """What vLLM's error handler may tell to stop when the engine died; polyad's supervisor restarts instead."""

    should_exit = False


def build_app(arguments: Namespace, engine: AdapterEngine) -> FastAPI:
    """vLLM's FastAPI application for this engine's tasks, less the routes in LEFT_OUT."""
    # SageMaker's bootstrap would load middleware named in the environment, and close the application to ours.
    with _replaced(vllm_app, "sagemaker_standards_bootstrap", lambda app: app):
        app: FastAPI = vllm_app.build_app(arguments, engine.supported_tasks, engine.model_config)
    app.router.routes[:] = [route for route in app.router.routes if not _left_out(route)]
    app.state.server = NeverExits()
    return app


async def attach_engine(app: FastAPI, arguments: Namespace, engine: AdapterEngine, catalog: Catalog) -> None:
    """Point every OpenAI handler at this engine."""
    with _replaced(app_state, "OpenAIServingModels", partial(AdapterModels, catalog=catalog)):
        await app_state.init_app_state(engine, app.state, arguments, engine.supported_tasks)
    # vLLM's own reporter would go on with the engine that was there when the application began.
    app.state.log_stats = False


def _left_out(route: BaseRoute) -> bool:
    return getattr(route, "path", None) in LEFT_OUT


@contextmanager
def _replaced(module: ModuleType, name: str, value: object) -> Iterator[None]:
    stock = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, stock)
