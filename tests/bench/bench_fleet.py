"""Routing policies for fleets of servers, simulated: time to first token, and loads of adapters.

Nothing here is measured but the three times that go in: what they were on one server is said beside them. The rest is
the model in tests/bench/fleet_sim, which its tests compare with queueing theory; here every token takes the same time,
however many requests run. bench-fleet-measured holds one simulated server against a real one.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from tests.bench.fleet_sim.plot import bars
from tests.bench.fleet_sim.policies import POLICIES
from tests.bench.fleet_sim.replica import Size, Times
from tests.bench.fleet_sim.simulation import Load, Outcome, simulate
from tests.bench.machine import print_header, print_result

# Measured by bench-hotswap on a CPU: a token 34.9 ms; the first token of a version just promoted 235 ms, most of which
# is its load. The number of tokens, the size of a server and its load are assumed.
TIMES = Times(load_s=0.2, prefill_s=0.035, token_s=0.0349, tokens=32)
SIZE = Size(seats=16, slots=8, host=64)
SHARE = 0.5
EXPONENT = 0.9
FLEETS = {10: 1_000, 100: 10_000, 1_000: 100_000}
REQUESTS_PER_SERVER = 150
PLOT = Path(__file__).parent / "fleet_sim/policies.svg"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", type=int, default=max(FLEETS), help="largest fleet")
    parser.add_argument("--plot", type=Path, default=PLOT)
    options = parser.parse_args()
    print_header("fleet", {"times": TIMES, "size": SIZE, "share of the seats": SHARE, "Zipf's exponent": EXPONENT})
    fleets = {servers: adapters for servers, adapters in FLEETS.items() if servers <= options.servers}
    found = {servers: _fleet(servers, adapters) for servers, adapters in fleets.items()}
    _print_table(found)
    panels = {
        "time to first token, 95th percentile, s": _panel(found, lambda outcome: outcome.quantile(0.95)),
        "loads of adapters per 100 requests": _panel(found, lambda outcome: 100 * outcome.loads_per_request),
    }
    options.plot.write_text(bars(panels, [f"{servers:,} servers" for servers in found]))
    print(f"plot      {options.plot}")
    print_result(
        {
            f"first_token_p95_s_{policy.replace(' ', '_')}_{servers}": outcome.quantile(0.95)
            for servers, outcomes in found.items()
            for policy, outcome in outcomes.items()
        }
    )


def _fleet(servers: int, adapters: int) -> dict[str, Outcome]:
    load = Load(adapters, EXPONENT, SHARE, max(20_000, REQUESTS_PER_SERVER * servers))
    outcomes = {}
    for name, policy in POLICIES.items():
        print(f"running   {servers} servers, {adapters} adapters, {name}", flush=True)
        outcomes[name] = simulate(servers, SIZE, TIMES, load, policy)
    return outcomes


def _panel(found: dict[int, dict[str, Outcome]], value: Callable[[Outcome], float]) -> dict[str, list[float]]:
    return {policy: [value(outcomes[policy]) for outcomes in found.values()] for policy in POLICIES}


def _print_table(found: dict[int, dict[str, Outcome]]) -> None:
    print("| servers | adapters | policy | first token p50 | p95 | p99 | loads per 100 requests |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for servers, outcomes in found.items():
        for policy, outcome in outcomes.items():
            shown = " | ".join(f"{outcome.quantile(share):.2f} s" for share in (0.5, 0.95, 0.99))
            loads = 100 * outcome.loads_per_request
            print(f"| {servers:,} | {FLEETS[servers]:,} | {policy} | {shown} | {loads:.1f} |")


if __name__ == "__main__":
    main()
