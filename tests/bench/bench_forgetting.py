"""Two tasks are learned one after the other: what is left of the first, with and without replay?

The tasks are reasoning-gym's: finding who likes what, and reversing two words. The adapter learns the first from its
corrections, then, from there, the second: once alone, and once with the replay that a run of `polyad learn` has by
default, from the memory that the first run left. Dataset, memory and trainer are the worker's own, in this process; an
answer is the likeliest one, and is right if the task's verifier says so.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import reasoning_gym
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.delta import Delta
from polyad.adapters_store.feedback import Message
from polyad.serve.example import unpack_base_model
from polyad.serve.learn.data import Converted, Example, Memory, build
from polyad.serve.learn.gate.statistics import interval
from polyad.serve.learn.settings import DataSettings, LearnSettings, TrainSettings
from polyad.serve.learn.speaker import Speaker
from polyad.serve.learn.train import Encoder, Trainer, continued, delta_of
from polyad.serve.learn.train.parent import load
from tests.bench.beginning import beginning
from tests.bench.machine import print_header, print_result

TAUGHT, EXAMINED, MAX_TOKENS = 64, 60, 12
RANK, TARGETS = 8, ("q_proj", "k_proj", "v_proj", "o_proj")
TRAIN = TrainSettings(epochs=2, batch=8, learning_rate=2e-3, max_length=256)
# Nothing is held out: no gate judges here, and the examinations have questions of their own.
ALONE, REPLAYING = DataSettings(held_out=0.0, replay_ratio=0.0), DataSettings(held_out=0.0)


@dataclass(frozen=True)
class Task:
    name: str
    options: dict[str, Any]

    def entries(self, seed: int, count: int) -> list[tuple[Any, dict[str, Any]]]:
        """So many questions, each with the task that verifies its answer."""
        made: Any = reasoning_gym.create_dataset(self.name, seed=seed, size=count, **self.options)
        return [(made, made[number]) for number in range(count)]

    def taught(self) -> list[Example]:
        """Each question with its right answer, as a correction would teach it."""
        return [
            Example(
                kind="sft",
                prompt=_asked(entry),
                answer=entry["answer"],
                event=f"{self.name}-{number}",
                response=f"{self.name}-{number}",
                version=1,
                expires=time.time() + 3600,
            )
            for number, (_, entry) in enumerate(self.entries(1, TAUGHT))
        ]

    def score(self, speaker: Speaker) -> int:
        """How many questions of the examination are answered rightly."""
        examined = self.entries(1_000_000, EXAMINED)
        answers = speaker.greedy([_asked(entry) for _, entry in examined])
        return sum(
            made.score_answer(answer, entry) == 1 for answer, (made, entry) in zip(answers, examined, strict=True)
        )


FIRST = Task("needle_haystack", {"min_num_statements": 2, "max_num_statements": 4})
SECOND = Task("word_sequence_reversal", {"min_words": 2, "max_words": 2})


class Pupil:
    """One model that learns; it can be put back to what it was."""

    def __init__(self, base: Path, folder: Path) -> None:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model.requires_grad_(False)
        self._model = continued(model, beginning(BaseModel.from_folder(base, "base"), RANK, TARGETS))
        self._encoder = Encoder(AutoTokenizer.from_pretrained(base), TRAIN.max_length)
        self._folder = folder
        self._scores: dict[str, tuple[int, int]] = {}

    @property
    def version(self) -> Delta:
        return delta_of(self._model)

    def go_back(self, version: Delta) -> None:
        load(self._model, version)

    def learn(self, examples: Sequence[Example], memory: Memory, settings: DataSettings) -> Memory:
        """Train on the examples as a run does; the memory for the next one."""
        dataset = build(Converted(list(examples)), memory, settings)
        began = time.perf_counter()
        trainer = Trainer(self._model, self._encoder, dataset, TRAIN)
        trainer.train(self._folder, lambda *_: None)
        (self._folder / "checkpoint.safetensors").unlink()
        sizes = f"{len(dataset.train)} new and {len(dataset.replay)} replayed examples"
        losses = f"loss {trainer.curve[0][1]:.2f} to {trainer.curve[-1][1]:.2f}"
        print(f"training  {sizes}, {trainer.steps} steps, {losses}, {time.perf_counter() - began:.0f} s", flush=True)
        return memory.grown(dataset.train, dataset.held_out, LearnSettings(data=settings))

    def examine(self, moment: str) -> dict[str, float]:
        """The shares of right answers to both tasks, as keys of the result."""
        speaker, found = Speaker(self._model, self._encoder, MAX_TOKENS), {}
        for place, task in (("first", FIRST), ("second", SECOND)):
            right = task.score(speaker)
            low, high = interval(right, EXAMINED)
            print(
                f"{moment:36} {place:6} {right:3} of {EXAMINED} right, 95 % interval {low:.2f} to {high:.2f}",
                flush=True,
            )
            found[f"{place}_{moment}"] = right / EXAMINED
        return found


def _asked(entry: dict[str, Any]) -> tuple[Message, ...]:
    return (Message(role="user", content=entry["question"]),)


def measure(pupil: Pupil) -> dict[str, float]:
    """All scores: before, after the first task, and after the second without and with replay."""
    scores = pupil.examine("before")
    memory = pupil.learn(FIRST.taught(), Memory(), REPLAYING)
    scores |= pupil.examine("after_learning")
    learned = pupil.version
    for settings, moment in ((ALONE, "after_second_without_replay"), (REPLAYING, "after_second_with_replay")):
        pupil.go_back(learned)
        pupil.learn(SECOND.taught(), memory, settings)
        scores |= pupil.examine(moment)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(".cache/base-models"))
    arguments = parser.parse_args()
    base = unpack_base_model(arguments.cache, print)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    settings = {
        "first": f"{FIRST.name} {FIRST.options}",
        "second": f"{SECOND.name} {SECOND.options}",
        "taught": f"{TAUGHT} corrections of each",
        "training": f"rank {RANK}, {TRAIN.epochs} epochs, batch {TRAIN.batch}, learning rate {TRAIN.learning_rate:g}",
        "replay": f"at most {REPLAYING.replay_ratio:g} for each new example",
    }
    print_header("bench-forgetting", settings)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        scores = measure(Pupil(base, Path(folder)))
    lost = {
        f"forgotten_{how}_replay": scores["first_after_learning"] - scores[f"first_after_second_{how}_replay"]
        for how in ("without", "with")
    }
    print_result({**scores, **lost, "seconds": time.perf_counter() - began})


if __name__ == "__main__":
    main()
