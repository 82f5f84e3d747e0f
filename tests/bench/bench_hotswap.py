"""Does pushing and using new adapters disturb the streams that are running?

Four streams of the base model run throughout, and the gap between their tokens is measured. Beside them one client
works in rounds, at one request per period: a quiet round asks adapters that are in the engine already; a push round
pushes a new adapter before each request, promotes it, and asks it. Rounds alternate, so that both see the same machine.
The same is done with stock vLLM's /v1/load_lora_adapter.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from polyad.adapters_store.base_model import BaseModel
from polyad.serve.example import unpack_base_model
from tests.bench.machine import print_header, print_result
from tests.bench.streams import Gaps, token_times, watched_streams
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
PERIOD_S = 1.2
SETTLE_S = 8.0
# float32: on a CPU without AVX-512, products in bf16 are so slow that nothing else would be seen.
ENGINE = ["--enforce-eager", "--max-model-len", "1024", "--dtype", "float32"]

# Pushes the adapter of an index; returns the name to ask for and the time at which it was asked to be promoted.
Push = Callable[[httpx.AsyncClient, int], Awaitable[tuple[str, float]]]


@dataclass
class Swaps(Gaps):
    """The gaps, and the seconds from each promotion to the first token of the new version."""

    swaps: list[float] = field(default_factory=list)


async def _ask(client: httpx.AsyncClient, model: str) -> float:
    """The time at which the first token came; the whole answer is read."""
    first = 0.0
    async for now in token_times(client, model, ANSWER_TOKENS):
        first = first or now
    return first


async def _run(url: str, base: str, push: Push) -> Swaps:
    """Alternate quiet and push rounds under the background streams."""
    gaps = Swaps()
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        warm = [(await push(client, index))[0] for index in range(WARM_ADAPTERS)]
        for name in warm:
            await _ask(client, name)
        with watched_streams(url, base, STREAMS) as streams:
            await asyncio.sleep(SETTLE_S)
            for index in range(PUSHES):
                if index % (PUSHES // ROUNDS) == 0:
                    gaps.begin("quiet")
                    for step in range(PUSHES // ROUNDS):
                        await asyncio.gather(_ask(client, warm[step % len(warm)]), asyncio.sleep(PERIOD_S))
                    gaps.begin("push")
                await asyncio.gather(_push_and_ask(client, push, WARM_ADAPTERS + index, gaps), asyncio.sleep(PERIOD_S))
            gaps.begin("end")
            gaps.assign(await asyncio.to_thread(streams.end))
    return gaps


async def _push_and_ask(client: httpx.AsyncClient, push: Push, index: int, gaps: Swaps) -> None:
    name, promoted = await push(client, index)
    gaps.swaps.append(await _ask(client, name) - promoted)


async def _polyad(url: str, base: str, folders: list[Path]) -> Swaps:
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


async def _stock(url: str, base: str, folders: list[Path]) -> Swaps:
    async def push(client: httpx.AsyncClient, index: int) -> tuple[str, float]:
        started = time.perf_counter()
        body = {"lora_name": f"stock-{index}", "lora_path": str(folders[index])}
        (await client.post("/v1/load_lora_adapter", json=body)).raise_for_status()
        return f"stock-{index}", started

    return await _run(url, base, push)


def _measure_polyad(model: Path, folders: list[Path], scratch: Path) -> Swaps:
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


def _measure_stock(model: Path, folders: list[Path], scratch: Path) -> Swaps:
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
        print(gaps.line(name, phase))
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
