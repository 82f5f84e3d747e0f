"""Saving compositions on a real registry."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from polyad.adapters_store.errors import (
    CompositionChanged,
    Conflict,
    InvalidInput,
    InvalidName,
    PolyadError,
    RegistryUnavailable,
    UnknownComposition,
    UnknownModel,
    Unsupported,
    WrongBase,
)
from polyad.adapters_store.registry import EmbeddedRedis, Registry, VersionDraft
from polyad.serve.compose import Resolver, parse
from polyad.serve.service import CompositionService
from polyad.serve.service.catalog import RegistryCatalog

TENANT = "public"
BASE = "the-base"
FINGERPRINT = "f" * 64


@pytest.fixture
def add(registry: Registry) -> Callable[..., Awaitable[None]]:
    """Register the next version of an adapter."""

    async def added(adapter: str, seed: int = 1, base: str = FINGERPRINT) -> None:
        draft = VersionDraft(digest=f"{seed:064x}", size=1, base=base, rank=4, targets=("q_proj",), source="upload")
        await registry.add_version(TENANT, adapter, draft)

    return added


@pytest.fixture
def resolver(registry: Registry) -> Resolver:
    return Resolver(registry.snapshot, TENANT, [BASE], FINGERPRINT)


@pytest.fixture
async def service(registry: Registry, resolver: Resolver, add: Callable[..., Awaitable[None]]) -> CompositionService:
    await add("support")
    await add("tone")
    return CompositionService(registry, resolver, TENANT, [BASE])


async def save(service: CompositionService, name: str, text: str, **options: Any) -> str:
    return (await service.save(name, parse(text), **options)).expression


async def test_saved_in_canonical_form_and_used_as_a_name(service: CompositionService, resolver: Resolver) -> None:
    assert await save(service, "helpful", "tone*0.3+(support)*0.7") == "support*0.7 + tone*0.3"
    assert service.composition("helpful").expression == "support*0.7 + tone*0.3"
    assert resolver.plan("helpful").label == "support@v1*0.7 + tone@v1*0.3"
    assert await save(service, "warm", "helpful*2") == "helpful*2"
    assert resolver.plan("warm").label == "support@v1*1.4 + tone@v1*0.6"


async def test_names_in_it_follow_their_aliases(
    service: CompositionService, resolver: Resolver, registry: Registry, add: Callable[..., Awaitable[None]]
) -> None:
    await save(service, "helpful", "support*0.7 + tone*0.3")
    before = resolver.plan("helpful")
    await add("support", 2)
    await registry.set_alias(TENANT, "support", "production", 2)
    assert before.label == "support@v1*0.7 + tone@v1*0.3"
    assert resolver.plan("helpful").label == "support@v2*0.7 + tone@v1*0.3"
    await registry.delete_adapter(TENANT, "tone")
    with pytest.raises(UnknownModel, match="model: 'tone' is not served here .* in helpful"):
        resolver.plan("helpful")


async def test_read_takes_text_and_json(service: CompositionService) -> None:
    blend = {"blend": [{"adapter": "support", "weight": 0.7}, {"adapter": "tone", "weight": 0.3}]}
    for value in ("support*0.7 + tone*0.3", f"{BASE}:support*0.7 + tone*0.3", blend):
        assert str(service.read(value, "expression")) == "support*0.7 + tone*0.3"
    with pytest.raises(InvalidInput, match="^expression: got"):
        service.read("support +", "expression")
    with pytest.raises(InvalidInput, match="^expression.blend.0.adapter: got 5"):
        service.read({"blend": [{"adapter": 5}]}, "expression")
    with pytest.raises(InvalidInput, match="^expression: got None"):
        service.read(None, "expression")


@pytest.mark.parametrize("model", [None, "", BASE])
async def test_composition_beside_the_base_model_or_nothing(service: CompositionService, model: str | None) -> None:
    assert service.model_text(model, {"adapter": "support", "weight": 0.5}) == "support*0.5"
    assert service.model_text(model, "support*0.5") == "support*0.5"


@pytest.mark.parametrize("model", ["support", "nobody", f"{BASE}:support", 5, False, {"adapter": "support"}])
async def test_composition_beside_another_model_is_refused(service: CompositionService, model: object) -> None:
    with pytest.raises(InvalidInput, match="model: got .*, allowed: the base model's name, or nothing"):
        service.model_text(model, {"adapter": "support"})


@pytest.mark.parametrize(
    ("name", "text", "kind", "message"),
    [
        ("Helpful", "support", InvalidName, "name: got 'Helpful'"),
        ("../etc", "support", InvalidName, "name: got"),
        (BASE, "support", InvalidName, "any name but the base model's"),
        ("support", "tone", Conflict, "name: 'support' is an adapter"),
        ("helpful", "support + nobody", UnknownModel, "expression: 'nobody' is not served here"),
        ("helpful", "support@v9", UnknownModel, "expression: 'support@v9' is not served here"),
        ("helpful", "helpful*0.5 + support", UnknownModel, "expression: 'helpful' is not served here"),
        ("helpful", "other-base + support", WrongBase, "expression: other-base@v1 was made for"),
        ("helpful", "ties(support, tone)", Unsupported, "expression: got 'ties"),
        ("helpful", " + ".join(f"a{n}" for n in range(9)), InvalidInput, "expression: got '9 versions'"),
    ],
)
async def test_what_could_not_be_served_is_not_saved(
    service: CompositionService,
    add: Callable[..., Awaitable[None]],
    name: str,
    text: str,
    kind: type[PolyadError],
    message: str,
) -> None:
    await add("other-base", base="e" * 64)
    for number in range(9):
        await add(f"a{number}")
    with pytest.raises(kind) as refused:
        await save(service, name, text)
    assert message in str(refused.value)
    assert service.page(None, 10) == []


async def test_circle_is_not_saved(service: CompositionService, resolver: Resolver) -> None:
    await save(service, "one", "support")
    await save(service, "two", "one*0.5")
    with pytest.raises(Conflict, match="expression: a composition contains itself: one -> two -> one"):
        await save(service, "one", "two + tone")
    with pytest.raises(Conflict, match="one -> one"):
        await save(service, "one", "one*2")
    assert resolver.plan("two").label == "support@v1*0.5"


async def test_circle_that_two_made_at_once_is_told_to_whoever_asks(
    service: CompositionService, registry: Registry, resolver: Resolver
) -> None:
    await save(service, "one", "support")
    await registry.set_composition(TENANT, "two", "one")
    await registry.set_composition(TENANT, "one", "two")
    with pytest.raises(Conflict, match="model: a composition contains itself: two -> one -> two"):
        resolver.plan("two")
    await save(service, "one", "support")
    assert resolver.plan("two").label == "support@v1"


async def test_compare_and_set_compares_what_is_meant(service: CompositionService) -> None:
    await save(service, "helpful", "support + tone", if_current=None)
    with pytest.raises(CompositionChanged):
        await save(service, "helpful", "support", if_current=None)
    with pytest.raises(CompositionChanged, match="'helpful' is 'support \\+ tone', expected 'tone'"):
        await save(service, "helpful", "support", if_current=parse("tone"))
    assert await save(service, "helpful", "support", if_current=parse("tone*0.5 + support + tone*0.5")) == "support"


async def test_pages_and_delete(service: CompositionService) -> None:
    for name in "cab":
        await save(service, name, "support")
    assert [one.name for one in service.page(None, 2)] == ["a", "b"]
    assert [one.name for one in service.page("b", 2)] == ["c"]
    await service.delete("b")
    for call in (lambda: service.composition("b"), lambda: service.composition("support")):
        with pytest.raises(UnknownComposition):
            call()
    with pytest.raises(UnknownComposition):
        await service.delete("b")


async def test_listed_among_the_models(service: CompositionService, registry: Registry, resolver: Resolver) -> None:
    await save(service, "helpful", "support*0.7 + tone*0.3")
    await registry.set_composition("them", "secret", "support")
    models = [(model.id, model.root) for model in RegistryCatalog(registry, resolver).models()]
    assert models == [("support", "support@v1"), ("tone", "tone@v1"), ("helpful", "support*0.7 + tone*0.3")]


async def test_without_redis_nothing_changes(
    service: CompositionService, registry: Registry, redis: EmbeddedRedis, resolver: Resolver
) -> None:
    await save(service, "helpful", "support")
    await redis.stop()
    deadline = time.monotonic() + 60
    while registry.live:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    for write in (save(service, "helpful", "tone"), service.delete("helpful")):
        with pytest.raises(RegistryUnavailable):
            await write
    assert resolver.plan("helpful").label == "support@v1"
