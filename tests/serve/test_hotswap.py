"""Versions that change under running requests."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import pytest

from polyad.adapters_store.base_model import BaseModel
from tests.fixtures.answers import TIE, Answer, Stream, ask, beside, doubt

PROMPT = "The history of the lighthouse begins"
# Tokens of what is to run still when other requests have been answered.
LONG = 300
SIZE = 0.2

Push = Callable[..., str]


class Adapter:
    """An adapter with two versions, and two adapters with the bytes of one each, to which nothing ever happens."""

    def __init__(self, client: httpx.Client, name: str, twins: dict[str, str]) -> None:
        self.name = name
        self._client = client
        self._twins = twins

    def begin(self, version: str) -> list[Stream]:
        """Streams of a version, which is promoted first."""
        self.promote(version).raise_for_status()
        return [self.stream()]

    def ask(self, reference: str = "") -> Answer:
        return ask(self._client, self.name + reference, PROMPT)

    def check(self, answer: Answer, said_by: str, like: str | None = None) -> None:
        """It is what one version says, and not what the other would have said."""
        assert answer.model == f"{self.name}@{said_by}"
        doubts = {version: doubt(self._client, twin, answer) for version, twin in self._twins.items()}
        assert {version for version, shortfall in doubts.items() if shortfall < TIE} == {like or said_by}, doubts

    def stream(self, reference: str = "") -> Stream:
        return Stream(self._client, self.name + reference, PROMPT, LONG).wait_for(3)

    def check_stream(self, stream: Stream, said_by: str) -> None:
        answer = stream.end()
        assert len(stream.models) == 1
        assert len(answer.tokens) == LONG
        self.check(answer, said_by)

    def promote(self, version: str, **options: str | None) -> httpx.Response:
        path = f"/v1/adapters/{self.name}/aliases/production"
        return self._client.put(path, json={"version": version, **options})

    def delete(self) -> httpx.Response:
        return self._client.delete(f"/v1/adapters/{self.name}")


@pytest.fixture
def new_adapter(
    client: httpx.Client, new_name: Callable[[], str], make_adapter: Callable[..., Path], push: Push
) -> Callable[[], Adapter]:
    def new() -> Adapter:
        name, twins = new_name(), {}
        for seed, version in enumerate(("v1", "v2")):
            folder = make_adapter(seed=seed, size=SIZE)
            assert push(name, folder) == version
            twins[version] = new_name()
            push(twins[version], folder)
        return Adapter(client, name, twins)

    return new


@pytest.fixture
def adapter(new_adapter: Callable[[], Adapter]) -> Adapter:
    return new_adapter()


def resident(client: httpx.Client) -> int:
    lines = client.get("/metrics").text.splitlines()
    return int(float(next(line for line in lines if line.startswith("polyad_resident_versions ")).split()[1]))


def test_request_ends_on_the_version_it_began_with(adapter: Adapter) -> None:
    for before, promoted, after in (("v1", "v2", "v2"), ("v2", "previous", "v1")):

        def promote_and_ask(before: str = before, promoted: str = promoted) -> Answer:
            adapter.promote(promoted, if_current=before).raise_for_status()
            return adapter.ask()

        (stream,), answer = beside(partial(adapter.begin, before), promote_and_ask)
        adapter.check(answer, after)
        adapter.check_stream(stream, before)


def test_promotion_that_lost_the_race_changes_nothing(adapter: Adapter) -> None:
    answer = adapter.promote("v2", if_current="v2")
    assert (answer.status_code, answer.json()["error"]["type"]) == (409, "AliasMoved")
    adapter.check(adapter.ask(), "v1")


def test_versions_side_by_side(adapter: Adapter) -> None:
    versions = ("v1", "v2")
    streams, answers = beside(
        lambda: [adapter.stream(f"@{version}") for version in versions],
        lambda: [adapter.ask(f"@{version}") for version in versions],
    )
    for version, stream, answer in zip(versions, streams, answers, strict=True):
        adapter.check(answer, version)
        adapter.check_stream(stream, version)


def test_deleted_adapter_is_refused_at_once_and_a_running_stream_ends_well(
    new_adapter: Callable[[], Adapter], client: httpx.Client
) -> None:
    adapters: list[Adapter] = []

    def begin() -> list[Stream]:
        adapters.append(new_adapter())
        adapters[-1].ask("@v2")
        return [adapters[-1].stream()]

    def delete() -> tuple[int, int]:
        before = resident(client)
        adapters[-1].delete().raise_for_status()
        return before, resident(client)

    (stream,), (before, left) = beside(begin, delete)
    adapter = adapters[-1]
    assert left == before - 1  # v2 was idle and left at once; v1 is in use
    for model in (adapter.name, f"{adapter.name}@v1", f"{adapter.name}@v2"):
        body = {"model": model, "prompt": PROMPT, "max_tokens": 1}
        answer = client.post("/v1/completions", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (404, "model")
    assert adapter.name not in {model["id"] for model in client.get("/v1/models").json()["data"]}
    stream.end()
    deadline = time.monotonic() + 120
    while resident(client) != before - 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    adapter.check_stream(stream, "v1")


def test_name_that_is_used_again_is_another_adapter(
    adapter: Adapter, make_adapter: Callable[..., Path], push: Push
) -> None:
    adapter.delete().raise_for_status()
    assert push(adapter.name, make_adapter(seed=1, size=SIZE)) == "v3"
    adapter.check(adapter.ask(), "v3", like="v2")


def test_stream_that_its_client_leaves_does_not_take_its_version_from_others(
    adapter: Adapter, client: httpx.Client
) -> None:
    stream = adapter.stream()
    body = {"model": adapter.name, "prompt": PROMPT, "max_tokens": LONG, "ignore_eos": True, "stream": True}
    for _ in range(3):
        with client.stream("POST", "/v1/completions", json=body) as left:
            next(left.iter_lines())
    adapter.delete().raise_for_status()
    adapter.check_stream(stream, "v1")
    assert client.get("/ready").json()["status"] == "ready"


def test_prefix_cache_never_crosses_versions(adapter: Adapter, client: httpx.Client, base: BaseModel) -> None:
    """Two blocks of 128 tokens and some: what one version computed of them serves its own next request, no other."""
    prompt = f"{adapter.name}. " + "A long introduction that every request shares. " * 30
    models = [f"{adapter.name}@v1", f"{adapter.name}@v2", base.name]
    assert [ask(client, model, prompt).cached for model in models] == [0, 0, 0]
    again = [ask(client, model, prompt) for model in models]
    assert min(answer.cached for answer in again) >= 128
    for model, other, answer in zip(models, models[1:] + models[:1], again, strict=True):
        assert doubt(client, model, answer) < TIE < doubt(client, other, answer)
    adapter.promote("v2").raise_for_status()
    answer = ask(client, adapter.name, prompt)
    assert answer.cached >= 128
    adapter.check(answer, "v2")
