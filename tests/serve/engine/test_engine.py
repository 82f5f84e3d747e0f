"""What every request passes on its way to the engine's process, whoever sends it."""

from types import SimpleNamespace
from typing import Any

import pytest
from vllm.v1.engine.async_llm import AsyncLLM

from polyad.serve.engine.engine import AdapterEngine
from polyad.serve.service.access import Caller, Role, current_caller


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Without a process behind it: what would be sent there is kept."""
    sent: list[Any] = []

    async def keep(request: Any) -> None:
        sent.append(request)

    def made(self: Any) -> None:
        self.engine_core = SimpleNamespace(add_request_async=keep)
        self.shutdown = lambda: None

    monkeypatch.setattr(AsyncLLM, "__init__", made)
    engine: Any = AdapterEngine()
    engine.weight_of = {"acme": 2.0}.__getitem__
    engine.sent = sent
    return engine


async def test_whatever_is_sent_says_whose_it_is(engine: Any) -> None:
    token = current_caller.set(Caller("acme", Role.USER))
    try:
        await engine.engine_core.add_request_async(SimpleNamespace(cache_salt="s", trace_headers=None))
    finally:
        current_caller.reset(token)
    (request,) = engine.sent
    assert request.cache_salt == "acme/s"
    assert request.trace_headers == {"polyad-tenant": "acme", "polyad-weight": "2.0"}


async def test_what_cannot_be_sent_is_forgotten(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM registers a request before it is encoded, which fails for a priority beyond 64 bits."""
    forgotten: list[tuple[str, bool]] = []

    async def fail(self: Any, request: Any, *_: Any) -> None:
        raise OverflowError("int too big to convert")

    async def abort(name: str, internal: bool = False) -> None:
        forgotten.append((name, internal))

    monkeypatch.setattr(AsyncLLM, "_add_request", fail)
    engine.abort = abort
    with pytest.raises(OverflowError):
        await engine._add_request(SimpleNamespace(request_id="one"), None, None, 0, None)
    assert forgotten == [("one", True)]
