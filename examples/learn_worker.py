"""`polyad learn` beside the server of the tour, and the runs that it ends."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from learn_users import Users, Visits

RUN_S = 600.0
POLL_S = 0.5
STOP_S = 30.0
POINTS = 10
VERDICTS = {True: "passed", False: "FAILED", None: "told"}


@contextmanager
def worker(base: Path, state_dir: Path, suites: Mapping[str, Sequence[dict[str, Any]]], threads: int) -> Iterator[None]:
    """A worker with these regression suites."""
    folder = state_dir / "suites"
    folder.mkdir()
    for name, cases in suites.items():
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(case)}\n" for case in cases))
    command = [sys.executable, "-m", "polyad.serve.cli.main", "learn", str(base), "--state-dir", str(state_dir)]
    options = ["--learn-threads", str(threads), "--learn-suites", str(folder)]
    process = subprocess.Popen([*command, *options], stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            # It is in the middle of a check of the gate; whoever kills it loses nothing.
            process.kill()
            process.wait()


def finished_run(users: Users, visits: Visits, known: set[str]) -> dict[str, Any]:
    """The next run that ends. While its canary is out, users go on asking."""
    deadline = time.monotonic() + RUN_S
    while time.monotonic() < deadline:
        runs = [run for run in users.call("GET", "/v1/runs")["data"] if run["id"] not in known]
        if runs and runs[-1]["state"] == "canary":
            users.stream(4, visits)
        if runs and runs[-1]["ended"] is not None:
            known.add(runs[-1]["id"])
            return dict(runs[-1])
        time.sleep(POLL_S)
    raise SystemExit(f"no run ended within {RUN_S:g} s")


def tell_run(users: Users, run: dict[str, Any]) -> None:
    """What the run was made of, how its loss went, what each check of the gate said, and how it ended."""
    decisions = users.call("GET", f"/v1/runs/{run['id']}/decisions")["data"]
    kept = [one for one in decisions if one["kept"]]
    left_out = Counter(one["by"] for one in decisions if not one["kept"])
    told = ", ".join(f"{count} by {rule}" for rule, count in left_out.most_common()) or "none"
    print(f"   data: {len(kept)} examples kept; left out: {told}")
    if kept:
        # The user is in the ids that the tour gives its events.
        (busiest, count), *_ = Counter(one["event"].partition("/")[0] for one in kept).most_common(1)
        print(f"   data: {count} of them are the busiest user's, {busiest}")
    every = -(-len(run["curve"]) // POINTS) or 1
    print(f"   loss: {' '.join(f'{loss:.2f}' for _, loss in run['curve'][::every])}, {run['steps']} steps")
    for finding in run["evidence"]:
        print(f"   gate: {finding['check']} {VERDICTS[finding['passed']]}: {finding['summary']}")
    print(f"   {run['id']} {run['state']}: {run['reason']}", flush=True)
