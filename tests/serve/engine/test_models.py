"""What vLLM's handlers find when they look up a model name."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from vllm.entrypoints.openai.models.serving import OpenAIModelRegistry
from vllm.entrypoints.serve.engine.serving import BaseServing
from vllm.lora.request import LoRARequest

from polyad.adapters_store.registry import Composition, Snapshot, Version
from polyad.adapters_store.registry.records import Header
from polyad.serve.api.errors import add_error_handlers
from polyad.serve.compose import Plan, Resolver
from polyad.serve.engine.catalog import Model
from polyad.serve.engine.engine_errors import Refused
from polyad.serve.engine.identity import PlannedRequest, composed, new_id, planned
from polyad.serve.engine.models import AdapterModels, AdapterNames


@dataclass
class Names:
    """A catalog of which only names are asked."""

    resolver: Resolver

    def models(self) -> tuple[Model, ...]:
        return ()


@pytest.fixture
def names(make_version: Callable[..., Version]) -> AdapterNames:
    header = Header(tenant="public", name="support", created=0, revision=1, aliases={"production": 1}, pins={})
    saved = Composition(tenant="public", name="same", expression="support", created=0, revision=1)
    snapshot = Snapshot.build("birth", 1, [header], [make_version("support")], [saved])
    return AdapterNames(Names(Resolver(snapshot, "public", ["the-base"], "base")))


def test_adapter_is_there_with_its_plan(names: AdapterNames) -> None:
    assert "support" in names
    handle = names["support@v1"]
    assert isinstance(handle, PlannedRequest)
    assert handle.plan.label == "support@v1"


@pytest.mark.parametrize("model", ["the-base", "", None])
def test_base_model_is_no_adapter(names: AdapterNames, model: str | None) -> None:
    assert model not in names


@pytest.mark.parametrize("model", ["nobody", "support@v2", "the-base:nobody", "the-basE"])
def test_unknown_name_is_an_error_and_never_absent(names: AdapterNames, model: str) -> None:
    """vLLM would go on with what it does for names that are not there; nothing may hang on that."""
    with pytest.raises(Refused):
        model in names  # noqa: B015
    with pytest.raises(Refused):
        names[model]


def test_nothing_is_kept_for_the_names_that_clients_send(names: AdapterNames) -> None:
    before = {key: repr(value) for key, value in vars(names).items()}
    for number in range(100):
        with pytest.raises(Refused):
            names[f"nobody-{number}"]
        assert names["support"].lora_name == names["support"].lora_name
    assert {key: repr(value) for key, value in vars(names).items()} == before
    assert (len(names), list(names)) == (0, [])


def test_response_names_the_version_that_answered(names: AdapterNames) -> None:
    models = AdapterModels.__new__(AdapterModels)
    assert models.model_name(names["support"]) == "support@v1"


def test_versions_differ_in_everything_that_vllm_tells_adapters_apart_by(make_version: Callable[..., Version]) -> None:
    versions = [
        make_version("support", 1, digest="0" * 64),
        make_version("support", 2, digest="1" * 64),
        make_version("tone", 1, digest="2" * 64),
        make_version("support", 1, digest="3" * 64),  # deleted, and made anew
    ]
    handles = [planned(Plan.single(version)) for version in versions]
    for key in (lambda handle: handle.lora_name, lambda handle: handle.lora_path, hash):
        assert len({key(handle) for handle in handles}) == len(versions)
    assert handles[0] == planned(Plan.single(versions[0]))
    loaded = [composed(handle.plan, new_id(), [new_id()]) for handle in (*handles, handles[0])]
    assert all(type(handle) is LoRARequest for handle in loaded)
    assert len({handle.lora_int_id for handle in loaded}) == len(loaded)
    assert all(1_000_000 <= handle.lora_int_id < 2**31 for handle in loaded)
    assert loaded[0].lora_name == loaded[-1].lora_name


class Served:
    """The part of vLLM's OpenAI serving classes that every handler begins with, over our names."""

    def __init__(self, names: AdapterNames) -> None:
        models = AdapterModels.__new__(AdapterModels)
        models.base_model_paths = [SimpleNamespace(name="the-base")]
        models.registry = OpenAIModelRegistry.__new__(OpenAIModelRegistry)
        models.registry.base_model_paths = models.base_model_paths
        models.lora_requests = names
        config: Any = None
        self.handler = BaseServing(models, config)

    async def ask(self, model: str | None) -> dict[str, Any]:
        request = SimpleNamespace(model=model)
        error = await self.handler._check_model(request)
        if error is not None:
            return {"error": error.error.message}
        adapter = self.handler._maybe_get_adapters(request)
        return {"model": self.handler.models.model_name(adapter)}


@pytest.fixture
async def http(names: AdapterNames) -> AsyncIterator[httpx.AsyncClient]:
    app, served = FastAPI(), Served(names)
    add_error_handlers(app)

    @app.post("/v1/completions")
    async def complete(body: dict[str, Any]) -> dict[str, Any]:
        return await served.ask(body.get("model"))

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


@pytest.mark.parametrize(
    ("model", "answered_by"),
    [
        ("support", "support@v1"),
        ("same", "support@v1"),
        ("the-base:support@v1", "support@v1"),
        ("support*2 - support", "support@v1"),
        ("(support)", "support@v1"),
        ("support*0.5", "support@v1*0.5"),
        ("support - support", "()"),
        ("the-base", "the-base"),
        (None, "the-base"),
    ],
)
async def test_handlers_find_what_a_name_or_composition_stands_for(
    http: httpx.AsyncClient, model: str | None, answered_by: str
) -> None:
    answer = await http.post("/v1/completions", json={"model": model})
    assert (answer.status_code, answer.json()) == (200, {"model": answered_by})


@pytest.mark.parametrize(
    ("model", "status", "kind", "message"),
    [
        ("nobody", 404, "UnknownModel", "model: 'nobody' is not served here"),
        ("Support", 404, "UnknownModel", "model: 'Support' is not served here"),
        ("support*0.7 + nobody*0.3", 404, "UnknownModel", "model: 'nobody' is not served here"),
        ("support*0.7 +", 400, "InvalidInput", "model: got '' at the end of 'support*0.7 +', allowed: "),
        ("support*0.7 + Tone", 400, "InvalidName", "model: got 'Tone' at character 15 of "),
        ("support)", 400, "InvalidInput", "model: got ')' at character 8 of 'support)'"),
        ("the-base:support;", 400, "InvalidInput", "model: got ';' at character 17 of "),
        ("ties(support)", 400, "Unsupported", "merges are not served yet"),
        ("fuse(support)", 400, "InvalidInput", "two experts or more with mode=dlf"),
    ],
)
async def test_handlers_refuse_the_rest_with_what_is_wrong(
    http: httpx.AsyncClient, model: str, status: int, kind: str, message: str
) -> None:
    answer = await http.post("/v1/completions", json={"model": model})
    assert answer.status_code == status
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == (kind, "model", status)
    assert message in error["message"]
