"""Feedback makes an adapter better, while it is served: `make demo-learn`, or `python examples/demo_learn.py`.

The base model is bad at a task of reasoning-gym: finding who likes what in a few sentences, and answering with the name
alone. Simulated users ask the server; the task's verifier decides whether they like an answer, correct it, or dislike
it. `polyad learn` trains, the gate judges, a canary answers half of the users, and then the next version takes over.
Everything goes through the public API. Ends 0 only if the last version's score is certainly better than the first's.

`--scenario` has users who do not mean well: three in ten verdicts are inverted, one user floods the queue, or a round
teaches to comply with what ought to be refused. Ends 0 only if the defences held; learn_scenarios.py says how.
"""

import argparse
import json
import math
import tempfile
import time
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from demo_server import DemoServer
from learn_scenarios import SCENARIOS, Honest, Round
from learn_users import Users
from learn_worker import finished_run, tell_run, worker
from safetensors.torch import save_file

from polyad.adapters_store.base_model import BaseModel
from polyad.serve.example import unpack_base_model

ADAPTER = "finder"
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
RANK, MAX_TOKENS, MOST_STREAMS = 8, 12, 5
POLICY: dict[str, Any] = {
    "mode": "automatic",
    "keep_s": 3600,
    "max_age_s": 3600.0,
    "canary_share": 0.5,
    "canary_events": 8,
    "settings": {
        "data": {"held_out": 0.25, "replay_ratio": 0.5},
        # Larger than the default: the model is small, and so is the time. At this rate what is disliked must not push
        # as hard as what is taught pulls, or the model unlearns to speak.
        "train": {
            "learning_rate": 2e-3,
            "epochs": 2,
            "batch": 8,
            "max_length": 256,
            "dpo_weight": 0.3,
            "kto_weight": 0.3,
        },
        "gate": {"min_held_out": 6},
    },
}


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


def set_policy(users: Users, scenario: Honest, events: int) -> None:
    policy = deepcopy(POLICY)
    for section, settings in scenario.settings().items():
        policy["settings"][section] |= settings
    users.call("PUT", f"/v1/adapters/{ADAPTER}/policy", json={**policy, "min_events": events})


class Tour:
    """The rounds of one scenario."""

    def __init__(self, users: Users, scenario: Honest, events: int, questions: int) -> None:
        self._users = users
        self._scenario = scenario
        self._events = events
        self._examinations = scenario.examinations(questions)
        self._known: set[str] = set()
        self.rounds: list[Round] = []

    def examine(self, label: str, run: dict[str, Any] | None = None) -> None:
        """What the adapter that is served now knows."""
        marks = {name: self._users.examine(questions) for name, questions in self._examinations.items()}
        self.rounds.append(Round(marks, run))
        for name, found in marks.items():
            print(f"== {label}, {name}: {found}", flush=True)

    def go_round(self, number: int) -> None:
        """Feedback until a run begins, and what came of the run."""
        visits = partial(self._scenario.visit, number)
        # What was cut off before its first word gets no feedback: then others are asked.
        for _ in range(MOST_STREAMS):
            waiting = self._users.call("GET", f"/v1/adapters/{ADAPTER}/policy")["waiting"]
            if waiting >= self._events:
                break
            share = self._users.stream(max(4, self._events - waiting), visits)
            print(f"-- round {number}: {share:.0%} of the answers that users got were right", flush=True)
        run = finished_run(self._users, visits, self._known)
        tell_run(self._users, run)
        self.examine(f"after round {number}", run)

    def tell_curve(self) -> None:
        """All scores in one table."""
        print("-- the curve: right answers after each round, and what became of its run")
        for number, one in enumerate(self.rounds):
            scores = "   ".join(f"{name} {marks}" for name, marks in one.marks.items())
            print(f"   {number}  {scores}   {'v1' if one.run is None else one.run['state']}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", choices=SCENARIOS, default="honest")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=32, help="honest events that begin a run")
    parser.add_argument("--questions", type=int, default=40, help="of the examination")
    parser.add_argument("--threads", type=int, default=2, help="that the worker computes with")
    parser.add_argument("--cache", type=Path, default=Path(".cache/base-models"))
    arguments = parser.parse_args()
    began = time.monotonic()
    scenario = SCENARIOS[arguments.scenario]()
    print(f"scenario {arguments.scenario}: {scenario.__doc__}")
    folder = unpack_base_model(arguments.cache, print)
    events = scenario.crowd * arguments.events
    with DemoServer(arguments.cache) as server:
        users = Users(server.wait_ready(), ADAPTER, MAX_TOKENS)
        push_beginning(users, BaseModel.from_folder(folder, "base"))
        set_policy(users, scenario, events)
        tour = Tour(users, scenario, events, arguments.questions)
        tour.examine("v1, which is the base model")
        with worker(folder, server.state_dir, scenario.suites(), arguments.threads):
            for number in range(1, arguments.rounds + 1):
                tour.go_round(number)
        code = server.stop()
    tour.tell_curve()
    print(f"{time.monotonic() - began:.0f} s in all; the server ended with {code}")
    if problem := scenario.broken_promise(tour.rounds):
        raise SystemExit(problem)


if __name__ == "__main__":
    main()
