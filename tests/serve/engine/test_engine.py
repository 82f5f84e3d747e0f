"""The engine client, over a residency and a vLLM of which only the order of events matters."""

import asyncio
import gc
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from vllm.lora.request import LoRARequest
from vllm.v1.engine.async_llm import AsyncLLM

from polyad.adapters_store.registry import Version
from polyad.serve.compose import Plan
from polyad.serve.engine.engine import AdapterEngine
from polyad.serve.engine.identity import planned
from polyad.serve.engine.telemetry import Telemetry

RESIDENT = LoRARequest(lora_name="resident", lora_int_id=7, lora_path="nowhere")


class Output(str):
    """What an engine says, with the field that tells whether it gave up."""

    outputs: tuple[Any, ...] = ()
    prompt_token_ids: tuple[int, ...] = ()


class Recorder:
    """Stands in for the residency and for vLLM's generate."""

    def __init__(self) -> None:
        self.events: list[str] = []

    @asynccontextmanager
    async def lease(self, plan: Plan) -> AsyncIterator[LoRARequest]:
        self.events.append(f"lease {plan.label}")
        try:
            yield RESIDENT
        finally:
            self.events.append("release")

    async def generate(
        self, prompt: str, params: Any = None, request_id: str = "", *, lora_request: LoRARequest | None = None
    ) -> AsyncGenerator[str, None]:
        try:
            for word in prompt.split():
                await asyncio.sleep(0)
                yield Output(f"{word} {lora_request.lora_name if lora_request else 'base'}")
        except (asyncio.CancelledError, GeneratorExit):
            await asyncio.sleep(0)
            self.events.append("abort")
            raise


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(AsyncLLM, "generate", lambda engine, *args, **options: recorder.generate(*args, **options))
    return recorder


@pytest.fixture
def engine(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> AdapterEngine:
    monkeypatch.setattr(AsyncLLM, "__del__", lambda engine: None)
    engine = AdapterEngine.__new__(AdapterEngine)
    residency: Any = recorder
    engine.residency = residency
    engine.telemetry = Telemetry(10)
    engine.weight_of = lambda tenant: 1.0
    return engine


@pytest.fixture
def handle(make_version: Any) -> LoRARequest:
    version: Version = make_version("support", 3)
    return planned(Plan.single(version))


async def test_request_for_an_adapter_runs_within_its_lease(
    engine: AdapterEngine, recorder: Recorder, handle: LoRARequest
) -> None:
    outputs: list[Any] = [output async for output in engine.generate("one two", lora_request=handle)]
    assert outputs == ["one resident", "two resident"]
    assert recorder.events == ["lease support@v3", "release"]


async def test_request_for_the_base_model_needs_no_lease(engine: AdapterEngine, recorder: Recorder) -> None:
    outputs: list[Any] = [output async for output in engine.generate("one")]
    assert outputs == ["one base"]
    assert recorder.events == []


async def test_client_that_closes_its_stream_is_gone_from_the_engine_before_the_lease_ends(
    engine: AdapterEngine, recorder: Recorder, handle: LoRARequest
) -> None:
    stream = engine.generate("one two three", lora_request=handle)
    await anext(stream)
    await stream.aclose()
    assert recorder.events == ["lease support@v3", "abort", "release"]


async def test_stream_that_is_forgotten_is_gone_from_the_engine_before_the_lease_ends(
    engine: AdapterEngine, recorder: Recorder, handle: LoRARequest
) -> None:
    stream = engine.generate("one two three", lora_request=handle)
    await anext(stream)
    del stream
    gc.collect()
    for _ in range(10):
        await asyncio.sleep(0)
    assert recorder.events == ["lease support@v3", "abort", "release"]


async def test_cancelled_request_is_gone_from_the_engine_before_the_lease_ends(
    engine: AdapterEngine, recorder: Recorder, handle: LoRARequest
) -> None:
    async def consume() -> None:
        async for _ in engine.generate("word " * 1000, lora_request=handle):
            pass

    task = asyncio.create_task(consume())
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recorder.events == ["lease support@v3", "abort", "release"]
