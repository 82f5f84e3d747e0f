"""Does pushing and using new adapters disturb the streams that are running?

Four streams of the base model run throughout, and the gap between their tokens is measured. Beside them one client
works in rounds, at one request per period: a quiet round asks adapters that are in the engine already; a push round
pushes a new adapter before each request, promotes it, and asks it. Rounds alternate, so that both see the same machine.
The same is done with stock vLLM's /v1/load_lora_adapter.
"""

import argparse
import asyncio
import multiprocessing
import statistics
import sys
import tempfile
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from polyad.adapters_store.base_model import BaseModel
from polyad.serve.example import unpack_base_model
from tests.bench.machine import print_header, print_result
from tests.fixtures.adapters import CONFIG, WEIGHTS, write_adapter
from tests.fixtures.ports import free_port
from tests.fixtures.server import ServerProcess, polyad_command

STREAMS = 4
PUSHES = 50
ROUNDS = 5
ANSWER_TOKENS = 8
WARM_ADAPTERS = 4
SLOTS = 8
RANK = 16
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PROMPT = "Tell me something about the sea."
PERIOD_S = 1.2
SETTLE_S = 8.0
# float32: on a CPU without AVX-512, products in bf16 are so slow that nothing else would be seen.
ENGINE = ["--enforce-eager", "--max-model-len", "1024", "--dtype", "float32"]

# Pushes the adapter of an index; returns the name to ask for and the time at which it was asked to be promoted.
Push = Callable[[httpx.AsyncClient, int], Awaitable[tuple[str, float]]]


@dataclass
class Gaps:
    """Gaps between tokens, in seconds, of all streams, by the kind of round they fell into."""

    rounds: list[tuple[float, str]] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    swaps: list[float] = field(default_factory=list)

    def begin(self, phase: str) -> None:
        self.rounds.append((time.perf_counter(), phase))

    def assign(self, tokens: list[tuple[float, float]]) -> None:
        """Sort (time of a token, gap before it) into the rounds."""
        starts = [start for start, _ in self.rounds]
        for now, gap in tokens:
            index = bisect_right(starts, now) - 1
            if index >= 0:
                self.seconds.setdefault(self.rounds[index][1], []).append(gap)

    def percentile(self, phase: str, percent: float) -> float:
        return statistics.quantiles(self.seconds[phase], n=1000, method="inclusive")[round(percent * 10) - 1]


async def _tokens(client: httpx.AsyncClient, model: str, max_tokens: int) -> AsyncIterator[float]:
    """The times at which a stream's tokens arrive."""
    body = {"model": model, "prompt": PROMPT, "max_tokens": max_tokens, "temperature": 0, "stream": True}
    async with client.stream("POST", "/v1/completions", json={**body, "ignore_eos": True}) as response:
        if response.status_code != httpx.codes.OK:
            raise RuntimeError(f"{model}: {response.status_code} {(await response.aread()).decode()}")
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                yield time.perf_counter()


async def _stream(client: httpx.AsyncClient, model: str, stop: Any, tokens: list[tuple[float, float]]) -> None:
    while not stop.is_set():
        last: float | None = None
        async for now in _tokens(client, model, 256):
            if last is not None:
                tokens.append((now, now - last))
            last = now


def _watch_streams(url: str, model: str, stop: Any, result: Any) -> None:
    """A process of its own, so that the pushing client's work is not measured as the server's."""

    async def run() -> list[tuple[float, float]]:
        tokens: list[tuple[float, float]] = []
        async with httpx.AsyncClient(base_url=url, timeout=120) as client:
            await asyncio.gather(*(_stream(client, model, stop, tokens) for _ in range(STREAMS)))
        return tokens

    result.put(asyncio.run(run()))


async def _ask(client: httpx.AsyncClient, model: str) -> float:
    """The time at which the first token came; the whole answer is read."""
    first = 0.0
    async for now in _tokens(client, model, ANSWER_TOKENS):
        first = first or now
    return first


async def _run(url: str, base: str, push: Push) -> Gaps:
    """Alternate quiet and push rounds under the background streams."""
    gaps, processes = Gaps(), multiprocessing.get_context("spawn")
    stop, result = processes.Event(), processes.Queue()
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        warm = [(await push(client, index))[0] for index in range(WARM_ADAPTERS)]
        for name in warm:
            await _ask(client, name)
        streams = processes.Process(target=_watch_streams, args=(url, base, stop, result))
        streams.start()
        await asyncio.sleep(SETTLE_S)
        for index in range(PUSHES):
            if index % (PUSHES // ROUNDS) == 0:
                gaps.begin("quiet")
                for step in range(PUSHES // ROUNDS):
                    await asyncio.gather(_ask(client, warm[step % len(warm)]), asyncio.sleep(PERIOD_S))
                gaps.begin("push")
            await asyncio.gather(_push_and_ask(client, push, WARM_ADAPTERS + index, gaps), asyncio.sleep(PERIOD_S))
        gaps.begin("end")
        stop.set()
    gaps.assign(await asyncio.to_thread(result.get, True, 120))
    streams.join(30)
    return gaps


async def _push_and_ask(client: httpx.AsyncClient, push: Push, index: int, gaps: Gaps) -> None:
    name, promoted = await push(client, index)
    gaps.swaps.append(await _ask(client, name) - promoted)


async def _polyad(url: str, base: str, folders: list[Path]) -> Gaps:
    async def push(client: httpx.AsyncClient, index: int) -> tuple[str, float]:
        name = f"warm-{index}" if index < WARM_ADAPTERS else "hot"
        files = {"config": (folders[index] / CONFIG).read_bytes(), "weights": (folders[index] / WEIGHTS).read_bytes()}
        answer = await client.post("/v1/adapters", data={"name": name}, files=files)
        answer.raise_for_status()
        version = answer.json()["version"]
        started = time.perf_counter()
        (await client.put(f"/v1/adapters/{name}/aliases/production", json={"version": version})).raise_for_status()
        return name, started

    return await _run(url, base, push)


async def _stock(url: str, base: str, folders: list[Path]) -> Gaps:
    async def push(client: httpx.AsyncClient, index: int) -> tuple[str, float]:
        started = time.perf_counter()
        body = {"lora_name": f"stock-{index}", "lora_path": str(folders[index])}
        (await client.post("/v1/load_lora_adapter", json=body)).raise_for_status()
        return f"stock-{index}", started

    return await _run(url, base, push)


def _measure_polyad(model: Path, folders: list[Path], scratch: Path) -> Gaps:
    port = free_port()
    state = scratch / "state"
    state.mkdir()
    command = polyad_command(model, state, port, "--slots", str(SLOTS), "--max-rank", str(RANK))
    server = ServerProcess(command, port, scratch / "polyad.log")
    try:
        server.wait_ready()
        return asyncio.run(_polyad(server.url, model.name, folders))
    finally:
        server.stop()


def _measure_stock(model: Path, folders: list[Path], scratch: Path) -> Gaps:
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--port", str(port)]
    command += ["--served-model-name", model.name, "--gpu-memory-utilization", "0.4", *ENGINE, "--enable-lora"]
    command += ["--max-loras", str(SLOTS), "--max-lora-rank", str(RANK), "--max-cpu-loras", str(PUSHES + SLOTS)]
    environment = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1"}
    server = ServerProcess(command, port, scratch / "stock.log", environment)
    try:
        server.wait_ready("/health")
        return asyncio.run(_stock(server.url, model.name, folders))
    finally:
        server.stop()


def _print(name: str, gaps: Gaps) -> float:
    for phase in ("quiet", "push"):
        p50, p99 = (1e3 * gaps.percentile(phase, percent) for percent in (50, 99))
        print(f"{name:8} {phase:6} {len(gaps.seconds[phase]):6} gaps   p50 {p50:6.1f} ms   p99 {p99:6.1f} ms")
    return gaps.percentile("push", 99) / gaps.percentile("quiet", 99)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-models", type=Path, default=Path(".state/base-models"))
    arguments = parser.parse_args()
    model = unpack_base_model(arguments.base_models, print)
    settings = {
        "model": model.name,
        "engine": " ".join(ENGINE),
        "streams": STREAMS,
        "pushes": PUSHES,
        "period": f"{PERIOD_S} s",
        "answer tokens": ANSWER_TOKENS,
        "slots": SLOTS,
        "rank": RANK,
        "targets": ", ".join(TARGETS),
    }
    print_header("hotswap", settings)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        base = BaseModel.from_folder(model, model.name)
        count = WARM_ADAPTERS + PUSHES
        folders = [
            write_adapter(scratch / f"adapter-{i}", base, seed=i, rank=RANK, targets=TARGETS, size=1e-3)
            for i in range(count)
        ]
        print(f"setting   bytes per adapter = {(folders[0] / WEIGHTS).stat().st_size}")
        stock = _print("stock", _measure_stock(model, folders, scratch))
        gaps = _measure_polyad(model, folders, scratch)
        ours = _print("polyad", gaps)
    swap_ms = 1e3 * statistics.median(gaps.swaps)
    print(f"polyad   PUT alias to the first token of the new version: p50 {swap_ms:.1f} ms")
    print_result({"p99_ratio": ours, "stock_p99_ratio": stock, "swap_ms": swap_ms})


if __name__ == "__main__":
    main()
