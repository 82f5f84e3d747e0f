"""Statistics of an adapter for Fisher averaging and RegMean: its model reads examples, one at a time."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.delta import Delta, dense
from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.feedback import Message
from polyad.adapters_store.merge.statistics import Kind, Means
from polyad.serve.learn.data import Prompt
from polyad.serve.learn.train.log_probs import log_probs
from polyad.serve.learn.train.tokens import Encoder, Row

# Lets a sequence go by, and shows how far it is.
Track = Callable[[Sequence[Any]], Iterable[Any]]


@dataclass(frozen=True, kw_only=True)
class Survey:
    """`sampled` draws each label from the model, as the definition of Fisher information has it; else the examples'
    own answers are the labels (the empirical one). `modules` are the linear layers that are looked at."""

    kind: Kind
    modules: Sequence[str]
    sampled: bool = True
    seed: int = 0

    def run(self, model: Any, rows: Sequence[Row], padding: int, track: Track = iter) -> Means:
        """What the model makes of the rows; it is left with no gradients. Raises InvalidInput for no rows."""
        layers = {name: model.get_submodule(name) for name in self.modules}
        means = Means(self.kind, layers)
        chance = torch.Generator().manual_seed(self.seed)
        model.eval().requires_grad_(False)
        if self.kind == "fisher":
            model.enable_input_require_grads()
        for row in track(rows):
            with torch.set_grad_enabled(self.kind == "fisher"), means.watching():
                said = log_probs(model, [row], padding)
                if self.kind == "fisher":
                    self._likelihood(said.logits_NAV[0], said.sums.sum(), chance).backward()  # type: ignore[no-untyped-call]
        return means

    def _likelihood(self, logits_AV: torch.Tensor, of_answer: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
        if not self.sampled:
            return of_answer
        log_probs_AV = logits_AV.log_softmax(-1)
        drawn_A1 = torch.multinomial(log_probs_AV.detach().exp().cpu(), 1, generator=chance).to(logits_AV.device)
        return log_probs_AV.gather(-1, drawn_A1).sum()


def bare_model(folder: Path) -> Any:
    """The base model in float32."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def tuned_model(folder: Path, base: BaseModel, delta: Delta) -> Any:
    """The same with a delta, of any kind, in its weights."""
    model = bare_model(folder)
    with torch.no_grad():
        for name, change in delta.modules.items():
            layer: Any = model.get_submodule(name)
            weight = layer.weight.t() if name in base.transposed else layer.weight
            matrix_OI, bias_O = dense(change, weight)
            if matrix_OI is not None:
                weight.add_(matrix_OI)
            if bias_O is not None:
                bias = bias_O if layer.bias is None else layer.bias + bias_O
                layer.bias = torch.nn.Parameter(bias, requires_grad=False)
    return model


def read_rows(data: Path, folder: Path, most: int, max_length: int) -> tuple[list[Row], int]:
    """The first examples of a JSONL file as tokens, and the padding. A line is {"messages": [...]}, which end with the
    assistant's, or {"prompt": text or messages, "answer": text}. Raises InvalidInput, naming the line.
    """
    encoder = Encoder(AutoTokenizer.from_pretrained(folder, local_files_only=True), max_length)
    rows: list[Row] = []
    with data.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip() and len(rows) < most:
                prompt, answer = _example(f"{data.name}, line {number}", line)
                rows.append(encoder.row(prompt, answer, ended=True))
    return rows, encoder.padding


def _example(place: str, line: str) -> tuple[Prompt, str]:
    allowed = '{"messages": [..., {"role": "assistant", "content": ...}]} or {"prompt": ..., "answer": ...}'
    try:
        value = json.loads(line)
        if "messages" in value:
            *before, last = (Message(**turn) for turn in value["messages"])
            if last.role != "assistant" or not before:
                raise InvalidInput(place, [turn["role"] for turn in value["messages"]], allowed)
            return tuple(before), last.content
        prompt, answer = value["prompt"], value["answer"]
        if not isinstance(answer, str):
            raise InvalidInput(place, answer, allowed)
        return (prompt if isinstance(prompt, str) else tuple(Message(**turn) for turn in prompt)), answer
    except (ValueError, TypeError, KeyError, AttributeError, ValidationError) as error:
        raise InvalidInput(place, line[:80], f"{allowed} ({error})") from error
