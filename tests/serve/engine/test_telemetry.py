"""What a request leaves in metrics and logs."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY
from vllm.sampling_params import RequestOutputKind

from polyad.adapters_store.errors import LoadFailed
from polyad.serve.engine.telemetry import Telemetry


def output(prompt: int, *tokens: int) -> Any:
    answers = [SimpleNamespace(index=index, token_ids=[0] * count) for index, count in enumerate(tokens)]
    return SimpleNamespace(prompt_token_ids=[0] * prompt, outputs=answers)


def value(name: str, tenant: str, adapter: str = "base", **labels: str) -> float:
    return REGISTRY.get_sample_value(name, {"tenant": tenant, "adapter": adapter, **labels}) or 0.0


@pytest.mark.parametrize(
    ("kind", "outputs"),
    [
        (RequestOutputKind.DELTA, [output(4, 1, 1), output(4, 2, 1)]),
        (RequestOutputKind.CUMULATIVE, [output(4, 1, 1), output(4, 3, 2)]),
        (RequestOutputKind.FINAL_ONLY, [output(4, 3, 2)]),
    ],
)
def test_tokens_are_counted_however_they_come(kind: RequestOutputKind, outputs: list[Any]) -> None:
    tenant = f"tokens-{kind.name.lower()}"
    with Telemetry(10).request("id", tenant, None, SimpleNamespace(output_kind=kind)) as observed:
        for one in outputs:
            observed.output(one)
    assert value("polyad_requests_total", tenant) == 1
    assert value("polyad_prompt_tokens_total", tenant) == 4
    assert value("polyad_generated_tokens_total", tenant) == 5
    streamed = kind != RequestOutputKind.FINAL_ONLY
    assert value("polyad_first_token_seconds_count", tenant) == streamed
    assert value("polyad_token_seconds_count", tenant) == streamed


def test_an_error_is_counted_by_its_kind_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO, "polyad.serve.engine.telemetry"),
        pytest.raises(RuntimeError),
        Telemetry(10).request("the-id", "errors", None, None),
    ):
        raise RuntimeError from LoadFailed("no")
    assert value("polyad_request_errors_total", "errors", kind="LoadFailed") == 1
    record: Any = caplog.records[-1]
    assert (record.request_id, record.tenant, record.adapter, record.error) == (
        "the-id",
        "errors",
        "base",
        "LoadFailed",
    )


def test_series_end_with_their_label() -> None:
    telemetry = Telemetry(1)
    for tenant, count in (("first", 1), ("second", 9)):
        for _ in range(count):
            with telemetry.request("id", tenant, None, None):
                pass
    assert REGISTRY.get_sample_value("polyad_requests_total", {"tenant": "first", "adapter": "base"}) is None
    assert value("polyad_requests_total", "second") > 0
    assert value("polyad_requests_total", "other", "other") > 0
