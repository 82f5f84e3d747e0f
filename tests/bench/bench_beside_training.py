"""Does a worker that trains disturb the answers of the server beside it, on the same machine?

Streams of the base model run throughout, and the gap between their tokens is measured: while nothing trains, beside
`polyad learn` as it is by default (one thread, at a low priority), and beside the same worker without that bound: as
many threads as the machine has cores, at the server's priority. The phases take turns, so that all see the same
machine. Each worker has a long run of an adapter of its own, and is stopped (SIGSTOP) while it is not its turn. What it
computed in its phases, and how many steps it made, is told beside the gaps.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from polyad.adapters_store.base_model import BaseModel
from polyad.serve.example import unpack_base_model
from tests.bench.machine import print_header, print_result
from tests.bench.streams import Gaps, watched_streams
from tests.fixtures.adapters import CONFIG, WEIGHTS, write_adapter
from tests.fixtures.ports import free_port
from tests.fixtures.server import serving

STREAMS, ROUNDS, PHASE_S, SETTLE_S, WAIT_S = 4, 2, 30.0, 8.0, 240.0
EVENTS, EPOCHS, RANK = 16, 100, 8
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
CORES = os.cpu_count() or 1
WORKER = ("-m", "polyad.serve.cli.main")
# The priority is no setting: who wants a worker without it has to say so in code.
UNBOUND = (
    "import polyad.serve.learn.priority as priority; priority.step_back = lambda: None; "
    "from polyad.serve.cli.main import main; main()"
)
POLICY: dict[str, Any] = {
    "mode": "automatic",
    "min_events": EVENTS,
    "canary_share": 0.0,
    # So many epochs that the run outlasts the benchmark.
    "settings": {"train": {"epochs": EPOCHS, "batch": 8}, "gate": {"min_held_out": 1}},
}


@dataclass
class Training:
    """A worker in the middle of a run, and how much it did in its phases."""

    name: str
    process: psutil.Process
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    steps: int = 0

    def line(self) -> str:
        """For people."""
        return f"worker   {self.name:8} {self.steps:6} steps in {self.seconds:.0f} s, {self.cores:.2f} cores"

    @property
    def cores(self) -> float:
        return self.cpu_seconds / self.seconds


class Beside:
    """The phases of one server."""

    def __init__(self, url: str, base: Path, state: Path) -> None:
        self._http = httpx.Client(base_url=url, timeout=120, trust_env=False)
        self._url = url
        self._base = base
        self._state = state
        self.gaps = Gaps()
        self.trained: list[Training] = []

    def measure(self) -> None:
        """All phases, under the streams."""
        with (
            self._worker("bound", WORKER, 1) as bound,
            self._worker("unbound", ("-c", UNBOUND), CORES) as unbound,
            watched_streams(self._url, self._base.name, STREAMS) as streams,
        ):
            self.trained = [bound, unbound]
            time.sleep(SETTLE_S)
            for _ in range(ROUNDS):
                for training in self.trained:
                    self._quiet()
                    self._beside(training)
            self.gaps.assign(streams.end())

    def _quiet(self) -> None:
        self.gaps.begin("quiet")
        time.sleep(PHASE_S)
        self.gaps.begin("between")

    def _beside(self, training: Training) -> None:
        steps, computed, began = self._step(training.name), _computed(training.process), time.monotonic()
        training.process.resume()
        self.gaps.begin(training.name)
        time.sleep(PHASE_S)
        self.gaps.begin("between")
        training.steps += self._step(training.name) - steps
        training.process.suspend()
        training.cpu_seconds += _computed(training.process) - computed
        training.seconds += time.monotonic() - began

    @contextmanager
    def _worker(self, name: str, command: Sequence[str], threads: int) -> Iterator[Training]:
        """A worker that has begun to train the adapter of this name, and is stopped."""
        self._teach(name)
        options = ["--state-dir", str(self._state), "--learn-threads", str(threads)]
        # Nobody else may take a run whose worker is stopped.
        options += ["--learn-lease-s", "3600", "--learn-poll-s", "0.2"]
        with (self._state / f"{name}.log").open("ab") as log:
            # A session of its own, as whatever runs services gives each of them.
            process = psutil.Popen(
                [sys.executable, *command, "learn", str(self._base), *options],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait_step(name, process)
            process.suspend()
            yield Training(name, process)
        finally:
            process.kill()
            process.wait(120)

    def _teach(self, name: str) -> None:
        """An adapter whose queue holds enough feedback for a run."""
        model = BaseModel.from_folder(self._base, "base")
        adapter = write_adapter(self._state / name, model, seed=0, rank=RANK, targets=TARGETS, size=0.0)
        files = {"config": (adapter / CONFIG).read_bytes(), "weights": (adapter / WEIGHTS).read_bytes()}
        self._call("POST", "/v1/adapters", data={"name": name}, files=files)
        self._call("PUT", f"/v1/adapters/{name}/policy", json=POLICY)
        for number in range(EVENTS):
            question = f"Tell me what the keeper of lighthouse {number} saw in the night, and what he did about it."
            messages = [{"role": "user", "content": question}]
            body = {"model": name, "messages": messages, "max_tokens": 8, "temperature": 0}
            response = self._call("POST", "/v1/chat/completions", json=body)["id"]
            story = f"In night {number} he saw {7 * number} ships without lights, and rang the bell until all had gone."
            self._call("POST", "/v1/feedback", json={"response": response, "correction": story})

    def _wait_step(self, name: str, process: psutil.Popen) -> None:
        deadline = time.monotonic() + WAIT_S
        while self._step(name) == 0:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no training:\n{(self._state / f'{name}.log').read_text()[-3000:]}")
            time.sleep(0.2)

    def _step(self, name: str) -> int:
        """The step that the adapter's run has come to: 0 while there is none."""
        runs = [run for run in self._call("GET", "/v1/runs")["data"] if run["adapter"] == name]
        if any(run["ended"] is not None for run in runs):
            raise RuntimeError(f"the training ended within the benchmark: {runs[0]['state']}: {runs[0]['reason']}")
        return int(runs[0]["step"]) if runs else 0

    def _call(self, method: str, path: str, **options: Any) -> Any:
        return self._http.request(method, path, **options).raise_for_status().json()


def _computed(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _result(gaps: Gaps, trained: Sequence[Training]) -> dict[str, float]:
    result: dict[str, float] = {}
    for phase in ("quiet", *(training.name for training in trained)):
        for percent in (50, 99):
            result[f"{phase}_p{percent}_ms"] = 1e3 * gaps.percentile(phase, percent)
    for training in trained:
        for percent in (50, 99):
            ratio = gaps.percentile(training.name, percent) / gaps.percentile("quiet", percent)
            result[f"{training.name}_p{percent}_ratio"] = ratio
        result[f"{training.name}_steps"] = training.steps
        result[f"{training.name}_cores"] = training.cores
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(".cache/base-models"))
    arguments = parser.parse_args()
    base = unpack_base_model(arguments.cache, print)
    settings = {
        "streams": STREAMS,
        "phases": f"{2 * ROUNDS} quiet, {ROUNDS} of each kind of worker, {PHASE_S:g} s each",
        "bound": "--learn-threads 1, niceness 10 (the default)",
        "unbound": f"--learn-threads {CORES}, niceness 0",
        "training": f"rank {RANK}, {EVENTS} corrections, batch 8",
    }
    print_header("bench-beside_training", settings)
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        with serving(base, state, free_port(), "--max-rank", "16") as server:
            beside = Beside(server.url, base, state)
            beside.measure()
    for phase in ("quiet", *(training.name for training in beside.trained)):
        print(beside.gaps.line("gaps", phase, 8))
    for training in beside.trained:
        print(training.line())
    print_result(_result(beside.gaps, beside.trained))


if __name__ == "__main__":
    main()
