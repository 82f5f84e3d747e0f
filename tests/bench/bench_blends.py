"""What blends cost: 64 requests with 64 weightings of four adapters, against 64 requests of one adapter.

Rounds alternate on one server, so that all see the same machine; a figure is the median of the rounds' ratios. What a
new composition takes is read from the worker process: its memory before and after rounds of compositions that it never
saw, between rounds of as many requests for one adapter.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from polyad.adapters_store.base_model import BaseModel
from polyad.serve.example import unpack_base_model
from tests.bench.adapters import RANK, TARGETS, push_to_polyad, write_same
from tests.bench.load import throughput
from tests.bench.machine import print_header, print_result
from tests.bench.servers import DTYPE, EAGER, ENGINE, polyad, worker_memory

REQUESTS = 64
TOKENS = 24
ROUNDS = 5
SLOTS = 12
ADAPTERS = 12
# Rounds of REQUESTS requests, each a composition of its own, whose memory is looked at.
MEMORY_ROUNDS = 9


def mixtures(names: Sequence[str], count: int, seed: int) -> list[str]:
    """So many different weightings of all the names."""
    return [
        " + ".join(
            f"{name}*{round(0.1 + (place + 1) * 0.001 * (index + 1) + seed, 4)}" for index, name in enumerate(names)
        )
        for place in range(count)
    ]


def three_of(names: Sequence[str]) -> list[str]:
    """A different triple for each request, spread over all of them."""
    triples = list(combinations(names, 3))
    return [
        f"{a}*{0.2 + place / 1000} + {b}*0.5 - {c}*0.25"
        for place, (a, b, c) in enumerate(triples[index * len(triples) // REQUESTS] for index in range(REQUESTS))
    ]


def ratios(url: str, cases: dict[str, list[str]], baseline: str) -> dict[str, float]:
    found: dict[str, list[float]] = {key: [] for key in cases}
    for models in cases.values():
        throughput(url, models, REQUESTS, 2)
    for round_ in range(ROUNDS):
        for key, models in cases.items():
            found[key].append(throughput(url, models, REQUESTS, TOKENS))
            print(f"round {round_ + 1}   {key:12} {found[key][-1]:7.1f} tokens/s", flush=True)
    return {
        key: statistics.median(rate / base for rate, base in zip(rates, found[baseline], strict=True))
        for key, rates in found.items()
        if key != baseline
    }


def bytes_per_composition(url: str, names: Sequence[str], server: int) -> float:
    """What the worker keeps for a composition beyond what as many requests for one adapter leave behind.

    Rounds alternate and the medians are compared: the allocator gives back, or takes, megabytes at times of its own.
    """

    def growth(models: list[str]) -> int:
        before = worker_memory(server)
        throughput(url, models, REQUESTS, 1)
        return worker_memory(server) - before

    plain, blended = [], []
    for round_ in range(MEMORY_ROUNDS):
        plain.append(growth(names[:1]))
        blended.append(growth(mixtures(names[:4], REQUESTS, 1 + round_)))
    # The first of each is what the first requests of all leave behind.
    typical, of_blends = statistics.median(plain[1:]), statistics.median(blended[1:])
    print(f"a round of {REQUESTS} requests left {typical:g} bytes in the worker, one of new blends {of_blends:g}")
    return max(0.0, of_blends - typical) / REQUESTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-models", type=Path, default=Path(".state/base-models"))
    model = unpack_base_model(parser.parse_args().base_models, print)
    settings = {
        "model": model.name,
        "dtype": DTYPE,
        "engine": " ".join([*ENGINE, EAGER]),
        "load": f"{REQUESTS} requests of {TOKENS} tokens",
        "rounds": ROUNDS,
        "slots": SLOTS,
        "rank": RANK,
        "targets": ", ".join(TARGETS),
    }
    print_header("blends", settings)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        adapters = write_same(scratch, BaseModel.from_folder(model, model.name), ADAPTERS)
        names = list(adapters)
        with polyad(model, scratch, "--slots", str(SLOTS), "--max-rank", str(RANK)) as server:
            for name, path in adapters.items():
                push_to_polyad(server.url, name, path)
            cases = {"one": names[:1], "distinct64": mixtures(names[:4], REQUESTS, 0), "three_of_12": three_of(names)}
            result = ratios(server.url, cases, "one")
            result["bytes_per_composition"] = bytes_per_composition(server.url, names, server.process.pid)
    print_result(result)


if __name__ == "__main__":
    main()
