"""Two tenants on a real server: what each gets, and that nothing tells one of the other."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from polyad.adapters_store.base_model import BaseModel
from tests.fixtures.adapters import CONFIG, WEIGHTS, write_adapter
from tests.fixtures.ports import free_port
from tests.fixtures.server import serving
from tests.serve.conftest import BASE_NAME

ADMIN_KEY = "the-admin-key"
PROMPT = "What one tenant asks is nobody else's to know. " * 40

Client = Callable[[str], httpx.Client]


@pytest.fixture(scope="module")
def client(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Clients by tenant; `public` is the one that runs the server."""
    options = ("--served-model-name", BASE_NAME, "--enable-prompt-tokens-details")
    state = tmp_path_factory.mktemp("tenants")
    with serving(base_model, state, free_port(), "--admin-key", ADMIN_KEY, "--slots", "2", *options) as server:
        clients: dict[str, httpx.Client] = {}

        def of(tenant: str) -> httpx.Client:
            if tenant not in clients:
                key = ADMIN_KEY
                if tenant != "public":
                    made = of("public").post("/v1/keys", json={"tenant": tenant, "role": "publisher"})
                    key = made.raise_for_status().json()["secret"]
                headers = {"authorization": f"Bearer {key}"}
                clients[tenant] = httpx.Client(base_url=server.url, headers=headers, timeout=120)
            return clients[tenant]

        yield of
        for opened in clients.values():
            opened.close()


def push(client: httpx.Client, folder: Path, name: str) -> None:
    files = {"config": (folder / CONFIG).read_bytes(), "weights": (folder / WEIGHTS).read_bytes()}
    client.post("/v1/adapters", data={"name": name}, files=files).raise_for_status()


@pytest.fixture(scope="module")
def adapters(client: Client, base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> None:
    """`mine` of acme, and `shared` of all."""
    folder = tmp_path_factory.mktemp("adapters")
    push(client("acme"), write_adapter(folder / "mine", base, seed=1, size=0.2), "mine")
    push(client("public"), write_adapter(folder / "shared", base, seed=2, size=0.2), "shared")


def ask(client: httpx.Client, model: str, prompt: str = PROMPT, **body: Any) -> httpx.Response:
    return client.post(
        "/v1/completions", json={"model": model, "prompt": prompt, "max_tokens": 2, "ignore_eos": True, **body}
    )


def cached(answer: httpx.Response) -> int:
    details = answer.raise_for_status().json()["usage"].get("prompt_tokens_details") or {}
    return int(details.get("cached_tokens") or 0)


@pytest.mark.parametrize("model", [BASE_NAME, "public/shared", "shared*0.5"])
@pytest.mark.usefixtures("adapters")
def test_no_prompt_is_cached_for_another_tenant(client: Client, model: str) -> None:
    assert cached(ask(client("acme"), model)) == 0
    assert cached(ask(client("acme"), model)) > 0
    assert cached(ask(client("other"), model)) == 0
    assert cached(ask(client("other"), model, cache_salt="acme")) == 0


def hits(client: Client) -> float:
    """Tokens that were found in the prefix cache so far."""
    shown = client("public").get("/metrics").raise_for_status().text
    return sum(
        float(line.split()[-1]) for line in shown.splitlines() if line.startswith("vllm:prefix_cache_hits_total")
    )


def test_several_answers_are_a_tenants_own_too(client: Client) -> None:
    """Each finds what the one before it left, the first of another tenant nothing."""
    found = []
    for tenant in ("acme", "acme", "other"):
        before = hits(client)
        ask(client(tenant), BASE_NAME, PROMPT[::-1], n=2).raise_for_status()
        found.append(hits(client) - before)
    first, again, others = found
    assert again > first and others == first
    assert cached(ask(client("acme"), BASE_NAME, PROMPT[::-1])) > 0, "one answer or two, it is the same tenant's cache"


@pytest.mark.usefixtures("adapters")
def test_names_of_another_tenant_are_unknown_models(client: Client) -> None:
    for name in ("mine", "mine@v1", "mine*0.5", f"{BASE_NAME}:mine"):
        known = ask(client("other"), name)
        unknown = ask(client("other"), name.replace("mine", "none"))
        assert known.status_code == 404
        assert known.text == unknown.text.replace("none", "mine")
    assert ask(client("acme"), "mine").json()["model"] == "mine@v1"


@pytest.mark.usefixtures("adapters")
def test_models_are_ones_own_and_public_ones(client: Client) -> None:
    for tenant, wanted in (
        ("acme", [BASE_NAME, "mine", "public/shared"]),
        ("other", [BASE_NAME, "public/shared"]),
        ("public", [BASE_NAME, "shared"]),
    ):
        assert [model["id"] for model in client(tenant).get("/v1/models").json()["data"]] == wanted


@pytest.mark.usefixtures("adapters")
def test_metrics_name_tenants_to_those_who_run_the_server(client: Client) -> None:
    ask(client("acme"), "mine").raise_for_status()
    assert client("other").get("/metrics").status_code == 403
    shown = client("public").get("/metrics").text
    assert 'polyad_requests_total{adapter="mine",tenant="acme"}' in shown
    assert 'polyad_generated_tokens_total{adapter="mine",tenant="acme"}' in shown


@pytest.mark.usefixtures("adapters")
def test_a_limit_on_running_requests_is_one(client: Client) -> None:
    client("public").put("/v1/tenants/acme", json={"max_running": 1}).raise_for_status()
    try:
        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(lambda _: ask(client("acme"), "mine", max_tokens=40), range(4)))
    finally:
        client("public").put("/v1/tenants/acme", json={}).raise_for_status()
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 429}
    assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 429)
