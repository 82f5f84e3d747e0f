"""From the feedback that begins a run to the first token of the version that came of it, by stage; and a training step
beside the same step in a bare TRL script.

The server and `polyad learn` run as users start them; feedback comes over HTTP; there is no canary, whose time users
decide. The step: the same LoRA on the same base model, the same taught answers in the same batches, one thread.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.feedback import Message
from polyad.serve.example import unpack_base_model
from polyad.serve.learn.data import Dataset, Example
from polyad.serve.learn.settings import TrainSettings
from polyad.serve.learn.train import Encoder, Trainer, continued
from tests.bench.beginning import beginning
from tests.bench.machine import print_header, print_result
from tests.fixtures.adapters import CONFIG, WEIGHTS, write_adapter
from tests.fixtures.ports import free_port
from tests.fixtures.server import ServerProcess, polyad_command

NAME = "bench"
EVENTS, STEPS, BATCH, RANK = 24, 8, 8, 8
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
RATE = 2e-3
WAIT_S = 600.0


def question(number: int) -> str:
    return f"What is the number of item {number}?"


def answer(number: int) -> str:
    return f"The number of item {number} is {number * 7}."


# From feedback to the first token


class Customer:
    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=120, trust_env=False)

    def call(self, method: str, path: str, **options: Any) -> Any:
        return self._http.request(method, path, **options).raise_for_status().json()

    def ask(self, number: int, tokens: int = 8) -> Any:
        messages = [{"role": "user", "content": question(number)}]
        body = {"model": NAME, "messages": messages, "max_tokens": tokens, "temperature": 0}
        return self.call("POST", "/v1/chat/completions", json=body)

    def correct(self, number: int) -> None:
        given = {"response": self.ask(number)["id"], "correction": answer(number)}
        self.call("POST", "/v1/feedback", json=given)

    def check(self, deadline: float) -> None:
        """Raises RuntimeError if no new version will come, TimeoutError if none came in time."""
        runs = self.call("GET", "/v1/runs")["data"]
        for run in runs:
            if run["ended"] is not None and run["state"] != "published":
                raise RuntimeError(f"no new version: the run is {run['state']}: {run['reason']}")
        if time.time() > deadline:
            raise TimeoutError(f"no new version: {runs}")


def feedback_to_token(base: Path) -> dict[str, float]:
    """Seconds of each stage, and of all."""
    with tempfile.TemporaryDirectory() as folder:
        state, port = Path(folder), free_port()
        server = ServerProcess(polyad_command(base, state, port, "--max-rank", "16"), port, state / "server.log")
        command = [sys.executable, "-m", "polyad.serve.cli.main", "learn", str(base), "--state-dir", str(state)]
        try:
            server.wait_ready()
            worker = subprocess.Popen([*command, "--learn-poll-s", "0.2"], stderr=subprocess.DEVNULL)
            try:
                return _timed(Customer(server.url), base, state)
            finally:
                worker.kill()
                worker.wait()
        finally:
            server.stop()


def _timed(customer: Customer, base: Path, state: Path) -> dict[str, float]:
    model = BaseModel.from_folder(base, "base")
    adapter = write_adapter(state / "adapter", model, seed=0, rank=RANK, targets=TARGETS, size=0.0)
    files = {"config": (adapter / CONFIG).read_bytes(), "weights": (adapter / WEIGHTS).read_bytes()}
    customer.call("POST", "/v1/adapters", data={"name": NAME}, files=files)
    settings = {"train": {"learning_rate": RATE, "epochs": 2}, "gate": {"min_held_out": 2, "confidence": 0.5}}
    policy = {"mode": "automatic", "min_events": EVENTS, "canary_share": 0.0, "settings": settings}
    customer.call("PUT", f"/v1/adapters/{NAME}/policy", json=policy)
    for number in range(EVENTS - 1):
        customer.correct(number)
    response = customer.ask(EVENTS)["id"]
    began = time.time()
    customer.call("POST", "/v1/feedback", json={"response": response, "correction": answer(EVENTS)})
    while not customer.ask(0, tokens=1)["model"].endswith("@v2"):
        customer.check(began + WAIT_S)
        time.sleep(0.1)
    whole = time.time() - began
    (run,) = customer.call("GET", "/v1/runs")["data"]
    times = {stage: moment for moment, stage in run["history"]}
    stages = {
        "begin_s": times["collecting"] - began,
        "collect_s": times["training"] - times["collecting"],
        "train_s": times["gating"] - times["training"],
        "gate_s": times["published"] - times["gating"],
        "first_token_s": began + whole - times["published"],
    }
    return {**stages, "feedback_to_token_s": whole}


# A step beside TRL's


def own_steps(base: Path, folder: Path) -> list[float]:
    examples = [
        Example(
            kind="sft",
            prompt=(Message(role="user", content=question(number)),),
            answer=answer(number),
            event=str(number),
            response=str(number),
            version=1,
            expires=0.0,
        )
        for number in range(STEPS * BATCH)
    ]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    delta = beginning(BaseModel.from_folder(base, "base"), RANK, TARGETS)
    encoder = Encoder(AutoTokenizer.from_pretrained(base), 256)
    settings = TrainSettings(epochs=1, batch=BATCH, learning_rate=RATE, save_every=10_000)
    trainer = Trainer(continued(model, delta), encoder, Dataset(tuple(examples), (), (), ()), settings)
    moments = [time.perf_counter()]
    trainer.train(folder, lambda *_: moments.append(time.perf_counter()))
    return [after - before for before, after in pairwise(moments[1:])]


class Watch(TrainerCallback):
    def __init__(self) -> None:
        self.moments: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.moments.append(time.perf_counter())


def trl_steps(base: Path, folder: Path) -> list[float]:
    from datasets import Dataset as Table
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    rows = [
        {
            "prompt": [{"role": "user", "content": question(number)}],
            "completion": [{"role": "assistant", "content": answer(number)}],
        }
        for number in range(STEPS * BATCH)
    ]
    options = SFTConfig(
        str(folder),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=RATE,
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        logging_steps=10_000,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    lora = LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=2 * RANK, target_modules=list(TARGETS))
    watch = Watch()
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(base)
    trainer = SFTTrainer(
        model,
        options,
        train_dataset=Table.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=[watch],
    )
    trainer.train()
    return [after - before for before, after in pairwise(watch.moments)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(".cache/base-models"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    base = unpack_base_model(arguments.cache, print)
    print_header("bench-learn", {"events": EVENTS, "batch": BATCH, "rank": RANK, "steps": STEPS})
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        # In turns, so that both see the same machine.
        for _ in range(2):
            ours += own_steps(base, Path(folder))
            Path(folder, "checkpoint.safetensors").unlink()
            theirs += trl_steps(base, Path(folder))
    mine, trl = statistics.median(ours), statistics.median(theirs)
    print(f"step      polyad {mine:.3f} s, TRL {trl:.3f} s (medians of {len(ours)} and {len(theirs)})")
    stages = feedback_to_token(base)
    for stage, seconds in stages.items():
        print(f"{stage:<20} {seconds:8.2f} s")
    print_result({**stages, "step_s": mine, "trl_step_s": trl, "step_ratio": mine / trl})


if __name__ == "__main__":
    main()
