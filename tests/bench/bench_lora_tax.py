"""What adapters cost: tokens per second against vLLM without any, on the same machine in the same minutes.

Every server is up at once, and each round asks each of them in turn, every other round in the opposite order. A figure
is the median over the rounds of the ratio to stock vLLM without LoRA in the same round, the worse of 16 and 64
concurrent requests. The stock servers with LoRA are four times as slow, and asked in one round only.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from polyad.adapters_store.base_model import BaseModel
from polyad.serve.example import unpack_base_model
from tests.bench.adapters import RANK, TARGETS, push_to_polyad, push_to_stock, write_ranks
from tests.bench.load import throughput
from tests.bench.machine import print_header, print_result
from tests.bench.servers import DTYPE, EAGER, ENGINE, polyad, stock

# Concurrent requests, and tokens of each.
LOADS = {16: 48, 64: 24}
ROUNDS = 4
SLOTS = 8
MANY = 16
RANKS = (4, 8, 16, 32, 64)
BASELINE = "stock without LoRA"

Push = Callable[[str, str, Path], None]


@dataclass
class Case:
    """A server and the models that are asked of it; `key` is its name in the result."""

    key: str
    url: str
    models: Sequence[str]
    rounds: int = ROUNDS
    rates: dict[int, list[float]] = field(default_factory=dict)

    def ratio(self, baseline: "Case", requests: int) -> float:
        pairs = zip(self.rates[requests], baseline.rates[requests], strict=False)
        return statistics.median(ours / theirs for ours, theirs in pairs)


def cases_of(prefix: str, url: str, base: str, folders: dict[str, Path], push: Push, rounds: int) -> list[Case]:
    """The cases that a server with adapters has."""
    for name, folder in folders.items():
        push(url, name, folder)
    same = [name for name in folders if name.startswith("same")]
    mixed = [name for name in folders if name.startswith("rank")]
    chosen = {"base": [base], "one": same[:1], "mixed4": same[:4], "overflow16": same, "ranks": mixed}
    return [Case(prefix + key, url, models, rounds) for key, models in chosen.items() if models]


def measure(cases: Sequence[Case]) -> None:
    for requests in LOADS:
        for case in cases:
            throughput(case.url, case.models, requests, 2)
    for round_ in range(ROUNDS):
        for requests, tokens in LOADS.items():
            for case in cases if round_ % 2 == 0 else reversed(cases):
                if round_ < case.rounds:
                    rate = throughput(case.url, case.models, requests, tokens)
                    case.rates.setdefault(requests, []).append(rate)
                    print(
                        f"round {round_ + 1}   {case.key:18} {requests:3} requests   {rate:7.1f} tokens/s", flush=True
                    )


def report(cases: Sequence[Case]) -> dict[str, float]:
    baseline, *others = cases
    result = {}
    for case in others:
        ratios = {requests: case.ratio(baseline, requests) for requests in LOADS}
        print(f"{case.key:18} " + "   ".join(f"{requests} requests: {ratio:.3f}" for requests, ratio in ratios.items()))
        result[case.key] = min(ratios.values())
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-models", type=Path, default=Path(".state/base-models"))
    parser.add_argument("--without-stock-lora", action="store_true", help="leave out stock vLLM with LoRA")
    arguments = parser.parse_args()
    model = unpack_base_model(arguments.base_models, print)
    settings = {
        "model": model.name,
        "dtype": DTYPE,
        "engine": " ".join([*ENGINE, EAGER]),
        "load": ", ".join(f"{requests} requests of {tokens} tokens" for requests, tokens in LOADS.items()),
        "rounds": ROUNDS,
        "slots": SLOTS,
        "rank": f"{RANK}; mixed: {RANKS}",
        "targets": ", ".join(TARGETS),
    }
    print_header("lora-tax", settings)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        scratch = Path(folder)
        ranks = {f"same-{index}": RANK for index in range(MANY)} | {f"rank-{rank}": rank for rank in RANKS}
        adapters = write_ranks(scratch, BaseModel.from_folder(model, model.name), ranks)
        baseline = running.enter_context(stock(model, scratch, EAGER))
        ours = running.enter_context(polyad(model, scratch, "--slots", str(SLOTS), "--max-rank", str(max(RANKS))))
        cases = [Case(BASELINE, baseline.url, [model.name])]
        cases += cases_of("", ours.url, model.name, adapters, push_to_polyad, ROUNDS)
        if not arguments.without_stock_lora:
            # A server of its own for mixed ranks: stock vLLM computes every adapter at the largest rank allowed.
            for rank, names in ((RANK, "same"), (max(RANKS), "rank")):
                options = ("--enable-lora", "--max-loras", str(SLOTS), "--max-cpu-loras", str(MANY))
                server = running.enter_context(stock(model, scratch, EAGER, *options, "--max-lora-rank", str(rank)))
                some = {name: path for name, path in adapters.items() if name.startswith(names)}
                found = cases_of("stock_", server.url, model.name, some, push_to_stock, 1)
                cases += [case for case in found if names == "same" or case.key == "stock_ranks"]
        measure(cases)
        print_result(report(cases))


if __name__ == "__main__":
    main()
