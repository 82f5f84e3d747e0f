"""How close the simulator of bench-fleet comes to one real server: the same requests at the same moments, for both.

A `polyad serve` with the seats, slots and host memory of the simulated one is asked first for what the simulator takes
in: a step by the number of requests in it, a prompt, a load. Then requests arrive at random moments, for adapters by
Zipf's law, at about half of what its full batch could answer. The first third warms it up and is not counted.
"""

import argparse
import asyncio
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import numpy as np

from polyad.adapters_store.base_model import BaseModel
from polyad.serve.example import unpack_base_model
from tests.bench.adapters import RANK, TARGETS, push_to_polyad
from tests.bench.fleet_sim.policies import Random
from tests.bench.fleet_sim.replica import Size, Times
from tests.bench.fleet_sim.served import Served
from tests.bench.fleet_sim.simulation import Load, Outcome, arrivals, replay
from tests.bench.machine import print_header, print_result
from tests.bench.servers import DTYPE, EAGER, ENGINE, polyad
from tests.fixtures.adapters import WEIGHTS, write_adapter

SIZE = Size(seats=16, slots=8, host=24)
ADAPTERS = 96
EXPONENT = 0.9
SHARE = 0.5
TOKENS = 16
MINUTES = 3.0
BATCHES = (1, 2, 4, 8, 12, 16)
ROUNDS = 2
# Those that bench-fleet's time of a token is from.
STREAMS = 4
COLD = 16
QUANTILES = (0.5, 0.95, 0.99)
_ITERATIONS = 20


@dataclass(frozen=True)
class Answer:
    """What was measured, and what was foretold, by steps of their own length and by one time for every token."""

    measured: Outcome
    by_steps: Outcome
    by_token: Outcome


async def times_of(served: Served) -> Times:
    for adapter in range(SIZE.slots):
        # Into the server's memory.
        await served.ask(adapter, 1)
    steps = {
        number: float(np.mean([await served.step_s(number, SIZE.slots) for _ in range(ROUNDS)])) for number in BATCHES
    }
    told = ", ".join(f"{number}: {1000 * seconds:.1f}" for number, seconds in steps.items())
    print(f"measured  a step of so many requests, ms: {told}", flush=True)
    step_s = np.interp(np.arange(1, SIZE.seats + 1), list(steps), list(steps.values()))
    prefill_s = await served.first_token_s() - steps[1]
    times = Times(0, prefill_s, steps[STREAMS], TOKENS, tuple(map(float, step_s)))
    beside = round(mean_running(times, rate_at(times)))
    load_s = await served.load_s(range(SIZE.slots, SIZE.slots + COLD), beside)
    print(
        f"measured  a prompt {1000 * prefill_s:.1f} ms; a load beside {beside} streams {1000 * load_s:.0f} ms",
        flush=True,
    )
    return replace(times, load_s=load_s)


def rate_at(times: Times) -> float:
    """Requests a second."""
    return SHARE * SIZE.seats / times.service_s


def mean_running(times: Times, rate: float) -> float:
    """How many requests run at a time, on the average (Little's law), at least one."""
    running = 1.0
    for _ in range(_ITERATIONS):
        step_s = float(np.interp(running, np.arange(1, len(times.step_s) + 1), times.step_s))
        running = max(1.0, rate * (times.prefill_s + times.tokens * step_s))
    return running


async def compare(url: str, names: list[str], minutes: float, seed: int) -> Answer:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits, trust_env=False) as http:
        served = Served(http, names)
        times = await times_of(served)
        count = round(rate_at(times) * 60 * minutes)
        requests = arrivals(Load(ADAPTERS, EXPONENT, SHARE, count), times, SIZE.seats, seed)
        print(f"arrivals  {count} in {requests[-1].arrival:.0f} s", flush=True)
        measured, load_s = await served.serve(requests)
        print(f"measured  a load took {1000 * load_s:.0f} ms in the run, with its wait for others", flush=True)
    by_steps = replay(1, SIZE, times, requests, Random(1, 0))
    return Answer(measured, by_steps, replay(1, SIZE, replace(times, step_s=()), requests, Random(1, 0)))


def figures(outcome: Outcome) -> list[float]:
    return [*(outcome.quantile(share) for share in QUANTILES), 100 * outcome.loads_per_request]


def report(answer: Answer) -> dict[str, float]:
    names = ("first_token_p50_s", "first_token_p95_s", "first_token_p99_s", "loads_per_100")
    found = {kind: figures(outcome) for kind, outcome in vars(answer).items()}
    rows = {
        "measured": found["measured"],
        "simulated, steps by batch size": found["by_steps"],
        "simulated, one time for every token": found["by_token"],
    }
    print("| | first token p50 | p95 | p99 | loads per 100 requests |")
    print("| --- | --- | --- | --- | --- |")
    for name, (*seconds, loads) in rows.items():
        print(f"| {name} | {' | '.join(f'{second:.3f} s' for second in seconds)} | {loads:.1f} |")
    result: dict[str, float] = {}
    for kind in ("by_steps", "by_token"):
        ratios = [foretold / seen for foretold, seen in zip(found[kind], found["measured"], strict=True)]
        print(f"| {kind}: simulated / measured | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")
        result |= {f"{name}_ratio_{kind}": ratio for name, ratio in zip(names, ratios, strict=True)}
    return dict(zip(names, found["measured"], strict=True)) | result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-models", type=Path, default=Path(".state/base-models"))
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    model = unpack_base_model(given.base_models, print)
    settings = {
        "model": model.name,
        "dtype": DTYPE,
        "engine": " ".join([*ENGINE, EAGER]),
        "size": SIZE,
        "adapters": f"{ADAPTERS} of rank {RANK}, Zipf's exponent {EXPONENT}",
        "tokens": TOKENS,
        "share of what a full batch answers": SHARE,
        "minutes": given.minutes,
    }
    print_header("fleet-measured", settings)
    with tempfile.TemporaryDirectory() as folder:
        scratch, base = Path(folder), BaseModel.from_folder(model, model.name)
        # One file under all names: in memory, what counts is the name.
        adapter = write_adapter(scratch / "adapter", base, seed=0, rank=RANK, targets=TARGETS, size=1e-3)
        room = int((SIZE.host + 0.5) * (adapter / WEIGHTS).stat().st_size)
        options = ("--slots", str(SIZE.slots), "--max-rank", str(RANK), "--host-cache-bytes", str(room))
        with polyad(model, scratch, *options, "--max-num-seqs", str(SIZE.seats)) as server:
            names = [f"adapter-{number}" for number in range(ADAPTERS)]
            for name in names:
                push_to_polyad(server.url, name, adapter)
            print_result(report(asyncio.run(compare(server.url, names, given.minutes, given.seed))))


if __name__ == "__main__":
    main()
