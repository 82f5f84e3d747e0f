"""Feedback makes an adapter better, while it is served: `make demo-learn`, or `python examples/demo_learn.py`.

The base model is bad at a task of reasoning-gym: finding who likes what in a few sentences, and answering with the name
alone. Simulated users ask the server; the task's verifier decides whether they like an answer, correct it, or dislike
it. `polyad learn` trains, the gate judges, a canary answers half of the users, and then the next version takes over.
Everything goes through the public API. Ends 0 only if the last version's score is certainly better than the first's.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import torch
from demo_server import DemoServer
from safetensors.torch import save_file

from polyad.adapters_store.base_model import BaseModel
from polyad.serve.example import unpack_base_model

ADAPTER = "finder"
TASK, TASK_OPTIONS = "needle_haystack", {"min_num_statements": 2, "max_num_statements": 4}
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
RANK, MAX_TOKENS, USERS = 8, 12, 8
RUN_S = 600.0
POLICY: dict[str, Any] = {
    "mode": "automatic",
    "keep_s": 3600,
    "max_age_s": 3600.0,
    "canary_share": 0.5,
    "canary_events": 8,
    "settings": {
        "data": {"held_out": 0.25, "replay_ratio": 0.5},
        # Larger than the default: the model is small, and so is the time.
        "train": {"learning_rate": 2e-3, "epochs": 2, "batch": 8, "max_length": 256},
        "gate": {"min_held_out": 6},
    },
}


@dataclass
class Users:
    """Simulated users of one task; each question is asked once."""

    url: str
    task: Any
    next: int = 0
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=self.url, timeout=120.0, trust_env=False)

    def call(self, method: str, path: str, **options: Any) -> Any:
        """The JSON that answers a request."""
        response = self.http.request(method, path, **options)
        if response.is_error:
            raise SystemExit(f"{method} {path}: {response.status_code} {response.text}")
        return response.json()

    def ask(self, entry: dict[str, Any], user: str) -> tuple[str, str, float]:
        """Response id, answer, and the verifier's score of it."""
        body = {
            "model": ADAPTER,
            "messages": [{"role": "user", "content": entry["question"]}],
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
            "user": user,
        }
        said = self.call("POST", "/v1/chat/completions", json=body)
        answer = said["choices"][0]["message"]["content"].strip()
        return said["id"], answer, float(self.task.score_answer(answer, entry))

    def react(self, number: int) -> float:
        """Ask one question and give feedback: what is right is liked, most of what is wrong is corrected."""
        entry, user = self.task[number], f"user-{number % USERS}"
        response, _, score = self.ask(entry, user)
        verdict: dict[str, Any] = {"thumb": "up"}
        if score < 1:
            verdict = {"thumb": "down"} if number % 3 == 0 else {"correction": entry["answer"]}
        self.call("POST", "/v1/feedback", json={"response": response, "id": f"event-{number}", **verdict})
        return score

    def stream(self, count: int) -> float:
        """Several users at once; the share of right answers."""
        numbers = range(self.next, self.next + count)
        self.next += count
        with ThreadPoolExecutor(4) as pool:
            return sum(score == 1 for score in pool.map(self.react, numbers)) / count

    def examine(self, entries: Sequence[dict[str, Any]]) -> tuple[int, float, float]:
        """How many of these the served adapter answers rightly, and Wilson's 95 % interval of the share."""
        with ThreadPoolExecutor(4) as pool:
            right = sum(score == 1 for _, _, score in pool.map(lambda entry: self.ask(entry, "examiner"), entries))
        return right, *interval(right, len(entries))


def interval(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    share, spread = right / count, z * z / count
    middle, half = share + spread / 2, z * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


def push_beginning(users: Users, base: BaseModel) -> None:
    """Push a LoRA that changes nothing yet: where learning begins."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for module, (out_features, in_features) in base.linears.items():
        if module.rpartition(".")[2] in MODULES:
            a = torch.randn(RANK, in_features, generator=generator) / math.sqrt(in_features)
            tensors[f"base_model.model.{module}.lora_A.weight"] = a
            tensors[f"base_model.model.{module}.lora_B.weight"] = torch.zeros(out_features, RANK)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": list(MODULES), "bias": "none"}
    with tempfile.TemporaryDirectory() as folder:
        save_file(tensors, Path(folder, "weights"))
        files = {"config": json.dumps(config).encode(), "weights": Path(folder, "weights").read_bytes()}
        users.call("POST", "/v1/adapters", data={"name": ADAPTER}, files=files)


@contextmanager
def worker(base: Path, state_dir: Path) -> Iterator[None]:
    """`polyad learn` beside the server."""
    command = [sys.executable, "-m", "polyad.serve.cli.main", "learn", str(base), "--state-dir", str(state_dir)]
    process = subprocess.Popen([*command, "--learn-threads", "2"], stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def finished_run(users: Users, known: set[str]) -> dict[str, Any]:
    """The next run that ends. While its canary is out, users go on asking."""
    deadline = time.monotonic() + RUN_S
    while time.monotonic() < deadline:
        runs = [run for run in users.call("GET", "/v1/runs")["data"] if run["id"] not in known]
        if runs and runs[-1]["state"] == "canary":
            users.stream(4)
        if runs and runs[-1]["ended"] is not None:
            known.add(runs[-1]["id"])
            return dict(runs[-1])
        time.sleep(0.5)
    raise SystemExit(f"no run ended within {RUN_S:g} s")


def tell(label: str, right: int, low: float, high: float, count: int) -> None:
    print(f"== {label}: {right} of {count} right, 95 % interval {low:.2f} to {high:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=32, help="events that begin a run")
    parser.add_argument("--questions", type=int, default=40, help="of the examination")
    parser.add_argument("--cache", type=Path, default=Path(".cache/base-models"))
    arguments = parser.parse_args()
    import reasoning_gym

    began = time.monotonic()
    folder = unpack_base_model(arguments.cache, print)
    asked = reasoning_gym.create_dataset(TASK, seed=1, size=10_000, **TASK_OPTIONS)
    examined = reasoning_gym.create_dataset(TASK, seed=2, size=arguments.questions, **TASK_OPTIONS)
    entries = [examined[index] for index in range(arguments.questions)]
    with DemoServer(arguments.cache) as server:
        users = Users(server.wait_ready(), asked)
        push_beginning(users, BaseModel.from_folder(folder, "base"))
        users.call("PUT", f"/v1/adapters/{ADAPTER}/policy", json={**POLICY, "min_events": arguments.events})
        scores = [users.examine(entries)]
        tell("v1, which is the base model", *scores[0], arguments.questions)
        with worker(folder, server.state_dir):
            known: set[str] = set()
            for round in range(1, arguments.rounds + 1):
                waiting = users.call("GET", f"/v1/adapters/{ADAPTER}/policy")["waiting"]
                share = users.stream(max(4, arguments.events - waiting))
                print(f"-- round {round}: the users found {share:.0%} of the answers right", flush=True)
                run = finished_run(users, known)
                print(f"   {run['id']} {run['state']}: {run['reason']}", flush=True)
                scores.append(users.examine(entries))
                tell(f"after round {round}", *scores[-1], arguments.questions)
        code = server.stop()
    print(f"{time.monotonic() - began:.0f} s in all; the server ended with {code}")
    if not scores[-1][1] > scores[0][2]:
        raise SystemExit("the last version is not certainly better than the first")


if __name__ == "__main__":
    main()
