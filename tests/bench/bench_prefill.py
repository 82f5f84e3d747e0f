"""What an adapter costs while a long prompt is read: tokens per second of prompts, and the memory that it takes.

Every server is up at once, and each round asks each of them in turn; prompts differ, and answers have one token. A
figure is the median over the rounds of the ratio to stock vLLM without LoRA in the same round. Memory is the most that
a server's worker ever had resident, above what it had before the first prompt.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import httpx

from polyad.adapters_store.base_model import BaseModel
from polyad.serve.example import unpack_base_model
from tests.bench.adapters import RANK, TARGETS, push_to_polyad, push_to_stock, write_same
from tests.bench.machine import print_header, print_result
from tests.bench.servers import DTYPE, EAGER, ENGINE, peak_memory, polyad, stock
from tests.fixtures.server import ServerProcess

PROMPT_TOKENS = 1000
REQUESTS = 2
ROUNDS = 5
SLOTS = 8


@dataclass
class Case:
    """A server, the model that is asked of it, and the tokens per second of each round."""

    key: str
    server: ServerProcess
    model: str
    rates: list[float] = field(default_factory=list)


def prompts() -> Iterator[list[int]]:
    """Token ids, each time others, so that nothing could be cached."""
    for place in count():
        yield [1000 + (7919 * place + 31 * index) % 20_000 for index in range(PROMPT_TOKENS)]


async def rate(case: Case, requests: int, texts: Iterator[list[int]]) -> float:
    """Prompt tokens per second of so many prompts at once."""
    async with httpx.AsyncClient(base_url=case.server.url, timeout=1200) as client:
        bodies = [{"model": case.model, "prompt": next(texts), "max_tokens": 1} for _ in range(requests)]
        started = time.perf_counter()
        for answer in await asyncio.gather(*(client.post("/v1/completions", json=body) for body in bodies)):
            answer.raise_for_status()
        return requests * PROMPT_TOKENS / (time.perf_counter() - started)


def measure(cases: list[Case]) -> None:
    texts = prompts()
    for case in cases:
        asyncio.run(rate(case, 1, texts))
    for round_ in range(ROUNDS):
        for case in cases:
            case.rates.append(asyncio.run(rate(case, REQUESTS, texts)))
            print(f"round {round_ + 1}   {case.key:14} {case.rates[-1]:7.1f} tokens/s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-models", type=Path, default=Path(".state/base-models"))
    model = unpack_base_model(parser.parse_args().base_models, print)
    settings = {
        "model": model.name,
        "dtype": DTYPE,
        "engine": " ".join([*ENGINE, EAGER]),
        "load": f"{REQUESTS} prompts of {PROMPT_TOKENS} tokens at once",
        "rounds": ROUNDS,
        "slots": SLOTS,
        "rank": RANK,
        "targets": ", ".join(TARGETS),
    }
    print_header("prefill", settings)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        scratch = Path(folder)
        (name, adapter), *_ = write_same(scratch, BaseModel.from_folder(model, model.name), 1).items()
        plain = running.enter_context(stock(model, scratch, EAGER))
        ours = running.enter_context(polyad(model, scratch, "--slots", str(SLOTS), "--max-rank", str(RANK)))
        lora = ("--enable-lora", "--max-loras", str(SLOTS), "--max-lora-rank", str(RANK))
        theirs = running.enter_context(stock(model, scratch, EAGER, *lora))
        push_to_polyad(ours.url, name, adapter)
        push_to_stock(theirs.url, name, adapter)
        servers = {"plain": plain, "ours": ours, "stock": theirs}
        before = {key: peak_memory(server.process.pid) for key, server in servers.items()}
        baseline = Case("plain", plain, model.name)
        others = [Case("base", ours, model.name), Case("adapter", ours, name), Case("stock_adapter", theirs, name)]
        measure([baseline, *others])
        result = {
            case.key: statistics.median(a / b for a, b in zip(case.rates, baseline.rates, strict=True))
            for case in others
        }
        for key, server in servers.items():
            grown = (peak_memory(server.process.pid) - before[key]) / 2**20
            result[f"{key}_peak_mb"] = grown
            print(f"{key:14} {before[key] / 2**20:7.0f} MiB before, {grown:7.0f} MiB more at the peak")
    print_result(result)


if __name__ == "__main__":
    main()
