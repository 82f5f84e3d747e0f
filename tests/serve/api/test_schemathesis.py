"""Requests made from the OpenAPI document, right and wrong: whatever they say, the server answers below 500."""

import contextlib
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from tests.fixtures.server import ServerProcess

EXAMPLES = 10
TOKENS = 2
# What a body may call the number of tokens to make; unbounded, each request would run for a minute.
LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


def _bounded(case: Any) -> Any:
    if case.operation.path == "/v1/keys" and isinstance(case.body, dict):
        # An admin's would be the first key, and end the time in which the tests need none.
        case.body["role"] = "user"
    if "tenant" in (case.path_parameters or {}):
        case.path_parameters["tenant"] = "fuzzed"
    if isinstance(case.body, dict):
        case.body.update(dict.fromkeys(LENGTHS, TOKENS))
        for amount in ("n", "best_of"):
            if isinstance(case.body.get(amount), int):
                case.body[amount] = min(case.body[amount], 2)
    return case


def _fuzz(operation: Any, positive: bool) -> None:
    mode = GenerationMode.POSITIVE if positive else GenerationMode.NEGATIVE

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        response = _bounded(case).call(timeout=60)
        assert response.status_code < 500, f"{case.as_curl_command()}\n{response.status_code} {response.text[:500]}"

    run()


def test_no_request_is_a_server_error(server: ServerProcess) -> None:
    document = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [operation.ok() for operation in document.get_all_operations()]
    assert {"/v1/chat/completions", "/v1/adapters"} <= {operation.path for operation in operations}
    for operation in operations:
        for positive in (True, False):
            with contextlib.suppress(Unsatisfiable):  # an operation without parameters has nothing wrong to send
                _fuzz(operation, positive)


def test_server_is_well_afterwards(client: httpx.Client) -> None:
    assert client.get("/ready").json()["status"] == "ready"
    assert "polyad_engine_restarts_total 0.0" in client.get("/metrics").text
