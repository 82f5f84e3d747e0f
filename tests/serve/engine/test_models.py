"""What vLLM's handlers find when they look up a model name."""

from collections.abc import Callable

import pytest
from vllm.lora.request import LoRARequest

from polyad.adapters_store.registry import Snapshot, Version
from polyad.adapters_store.registry.records import Header
from polyad.serve.compose import Plan, Resolver
from polyad.serve.engine.engine_errors import Refused
from polyad.serve.engine.identity import PlannedRequest, composed, new_id, planned
from polyad.serve.engine.models import AdapterModels, AdapterNames


@pytest.fixture
def names(make_version: Callable[..., Version]) -> AdapterNames:
    header = Header(tenant="public", name="support", created=0, revision=1, aliases={"production": 1}, pins={})
    snapshot = Snapshot.build("birth", 1, [header], [make_version("support")])
    return AdapterNames(Resolver(snapshot, "public", ["the-base"], "base"))


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
