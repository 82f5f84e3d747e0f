"""Four experts: LoRAs of the small base model, each trained on one task of reasoning-gym; and who examines them.

The tasks are ones that the base model is bad at and can learn in minutes on two cores: short questions, short answers,
and a verifier. No expert is examined on a question that it was trained on.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from polyad.adapters_store.feedback import Message
from polyad.serve.learn.data import Dataset, Example
from polyad.serve.learn.settings import TrainSettings
from polyad.serve.learn.train import Encoder, Trainer

# reasoning-gym draws question n from seed + n: near seeds ask the same questions.
TRAINED, EXAMINED = 11, 1_000_000
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
RANK = 8
SETTINGS = TrainSettings(epochs=2, batch=8, learning_rate=2e-3, max_length=128, save_every=10_000)
DATA = "data.jsonl"


@dataclass(frozen=True)
class Task:
    """A task of reasoning-gym, and how many of its questions are taught."""

    name: str
    options: Mapping[str, int] = field(default_factory=dict)
    taught: int = 160

    def lessons(self) -> list[dict[str, Any]]:
        """The questions that are taught, with their answers."""
        return list(self._dataset(TRAINED, self.taught))

    def examination(self, count: int) -> tuple[Any, list[dict[str, Any]]]:
        """What verifies answers, and so many questions, none of which is taught."""
        known = {entry["question"] for entry in self.lessons()}
        dataset = self._dataset(EXAMINED, 3 * count)
        return dataset, [entry for entry in dataset if entry["question"] not in known][:count]

    def _dataset(self, seed: int, size: int) -> Any:
        import reasoning_gym

        return reasoning_gym.create_dataset(self.name, seed=seed, size=size, **self.options)


TASKS = {
    "finder": Task("needle_haystack", {"min_num_statements": 2, "max_num_statements": 4}),
    "sums": Task("chain_sum", {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}),
    "kin": Task("family_relationships"),
    "reverse": Task("word_sequence_reversal", {"min_words": 3, "max_words": 4}),
}


def experts(base: Path, cache: Path) -> dict[str, Path]:
    """A PEFT folder for each task, with what it was trained on beside it. Trained once, and kept in `cache`."""
    folders = {}
    for name, task in TASKS.items():
        spoken = json.dumps([asdict(task), RANK, TARGETS, SETTINGS.model_dump(), base.name], sort_keys=True)
        folder = cache / f"{name}-{sha256(spoken.encode()).hexdigest()[:12]}"
        if not folder.exists():
            _train(task, base, folder)
        folders[name] = folder
    return folders


def _train(task: Task, base: Path, folder: Path) -> None:
    made = folder.with_suffix(".part")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    entries = task.lessons()
    (made / DATA).write_text(
        "".join(json.dumps({"prompt": _asked(one), "answer": str(one["answer"])}) + "\n" for one in entries)
    )
    torch.manual_seed(SETTINGS.seed)
    lora = LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=2 * RANK, target_modules=list(TARGETS))
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), lora)
    encoder = Encoder(AutoTokenizer.from_pretrained(base), SETTINGS.max_length)
    trainer = Trainer(model, encoder, Dataset(_examples(entries), (), (), ()), SETTINGS)
    trainer.train(made, lambda step, steps, loss: _tell(task.name, step, steps, loss))
    model.save_pretrained(made, save_embedding_layers=False)
    made.rename(folder)


def _asked(entry: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"role": "user", "content": entry["question"]}]


def _examples(entries: Sequence[Mapping[str, Any]]) -> tuple[Example, ...]:
    return tuple(
        Example(
            kind="sft",
            prompt=(Message(role="user", content=entry["question"]),),
            answer=str(entry["answer"]),
            event=str(number),
            response=str(number),
            version=1,
            expires=0.0,
        )
        for number, entry in enumerate(entries)
    )


def _tell(name: str, step: int, steps: int, loss: float) -> None:
    if step % 10 == 0 or step == steps:
        print(f"training  {name}: step {step} of {steps}, loss {loss:.3f}", flush=True)
