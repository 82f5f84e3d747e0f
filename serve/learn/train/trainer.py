"""One training: from a parent and a dataset to a candidate, step by step, and on from a checkpoint if it was killed."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from polyad.adapters_store.errors import PolyadError
from polyad.serve.learn.data import Dataset, Example
from polyad.serve.learn.data.example import digest_of
from polyad.serve.learn.settings import TrainSettings
from polyad.serve.learn.train import checkpoint, losses
from polyad.serve.learn.train.batches import batches, mismatches
from polyad.serve.learn.train.checkpoint import Tensors
from polyad.serve.learn.train.log_probs import LogProbs, log_probs, sums
from polyad.serve.learn.train.options import options_of
from polyad.serve.learn.train.parent import trainable
from polyad.serve.learn.train.tokens import Encoder, Row

# Called with the step, all steps and the loss; what it raises ends the training.
Watch = Callable[[int, int, float], None]

_DIVERGED = 4.0
_SMOOTH = 0.9


class TrainingFailed(PolyadError):
    """A training ended without a candidate: its loss is no number, it diverges, or memory is not enough."""


class Trainer:
    """Trains `model`, which is the parent when it comes. `round` numbers the runs of an adapter."""

    def __init__(self, model: Any, encoder: Encoder, dataset: Dataset, settings: TrainSettings, round: int = 0) -> None:
        self.model = model
        self.encoder = encoder
        self.settings = settings
        self.round = round
        self.seed = settings.seed
        self.padding = encoder.padding
        self.examples = (*dataset.train, *dataset.replay)
        self.order = batches(self.examples, settings.batch, settings.epochs, settings.seed)
        self.steps = len(self.order)
        self.curve: list[tuple[int, float]] = []
        self.parameters = trainable(model)
        self.parent: Tensors = {name: one.detach().clone() for name, one in self.parameters.items()}
        self._replayed = dataset.replay or dataset.train
        self._options = options_of(settings.options)
        self._key = digest_of([dataset.digest, settings.model_dump(), round, _content(self.parent)])
        self._smooth: float | None = None
        self._best = math.inf

    def train(self, folder: Path, watch: Watch) -> None:
        """Train to the end. Checkpoints are in `folder`. Raises TrainingFailed, and what `watch` raises."""
        try:
            self._train(folder / "checkpoint.safetensors", watch)
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise TrainingFailed("out of memory: smaller batch or max_length, or a larger machine") from error
        except RuntimeError as error:
            if "not enough memory" not in str(error) and "can't allocate memory" not in str(error):
                raise
            raise TrainingFailed("out of memory: smaller batch or max_length, or a larger machine") from error

    def _train(self, path: Path, watch: Watch) -> None:
        torch.manual_seed(self.seed)
        self._rows = [self._pair(example) for example in self.examples]
        self._mismatched = {
            index: self.encoder.row(
                self.examples[index].prompt, self.examples[other].answer, self.examples[other].ended
            )
            for index, other in mismatches(self.examples).items()
        }
        self._refer()
        for _, option in self._options:
            option.begin(self)
        optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay
        )
        self.model.train()
        for step in range(self._resume(path, optimizer), self.steps):
            loss = self._step(step, optimizer)
            self.curve.append((step + 1, loss))
            watch(step + 1, self.steps, loss)
            if (step + 1) % self.settings.save_every == 0 or step + 1 == self.steps:
                self._save(path, step + 1, optimizer)
        for _, option in self._options:
            option.end(self)
        self.model.eval()

    def _step(self, step: int, optimizer: torch.optim.Optimizer) -> float:
        for _, option in self._options:
            option.before_forward(self, step)
        for group in optimizer.param_groups:
            group["lr"] = self._rate(step)
        loss = self.loss(self.order[step], step)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingFailed(f"the loss is {value} at step {step + 1} of {self.steps}")
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        for _, option in self._options:
            option.after_forward(self)
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.clip))
        if not math.isfinite(norm):
            raise TrainingFailed(f"the gradients are {norm} at step {step + 1} of {self.steps}")
        optimizer.step()
        for _, option in self._options:
            option.after_step(self, step)
        self._check_divergence(step, value)
        return value

    def loss(self, batch: Sequence[int], step: int) -> torch.Tensor:
        """The loss of one batch, with what the options add."""
        kind = self.examples[batch[0]].kind
        if kind == "sft":
            return self._taught(batch, step)
        loss = self._preferred(batch) if kind == "dpo" else self._judged(batch)
        return self._with_options(loss, None, ())

    def _taught(self, batch: Sequence[int], step: int) -> torch.Tensor:
        rows: Sequence[Row] = [self._rows[index][0] for index in batch]
        for _, option in self._options:
            rows = option.rows(self, rows, step)
        said = log_probs(self.model, rows, self.padding)
        other = [loss for _, option in self._options if (loss := option.taught(said, rows)) is not None]
        loss = other[-1] if other else losses.sft(said)
        return self._with_options(self.settings.sft_weight * loss, said, rows)

    def _preferred(self, batch: Sequence[int]) -> torch.Tensor:
        both = [row for side in (0, 1) for index in batch if (row := self._rows[index][side]) is not None]
        said = log_probs(self.model, both, self.padding)
        reference = self._reference[torch.tensor([[i, j] for j in (0, 1) for i in batch]).unbind(1)].to(said.sums)
        (chosen, rejected), (before, before_rejected) = said.sums.chunk(2), reference.chunk(2)
        settings, counts = self.settings, said.counts.chunk(2)
        kind, smoothing = settings.preference, settings.label_smoothing
        loss = losses.dpo(
            chosen, rejected, before, before_rejected, settings.beta, kind, smoothing, (counts[0], counts[1])
        )
        return settings.dpo_weight * loss

    def _judged(self, batch: Sequence[int]) -> torch.Tensor:
        with torch.no_grad():
            moved = log_probs(self.model, [self._mismatched[index] for index in batch], self.padding).sums
        said = log_probs(self.model, [self._rows[index][0] for index in batch], self.padding).sums
        indices = torch.tensor(batch)
        baseline = losses.kto_baseline(moved, self._reference[indices, 2].to(moved))
        desirable = torch.tensor([bool(self.examples[index].desirable) for index in batch], device=said.device)
        settings = self.settings
        weights = (settings.desirable, settings.undesirable)
        before = self._reference[indices, 0].to(said)
        return settings.kto_weight * losses.kto(said, before, desirable, baseline, settings.beta, weights)

    def _with_options(self, loss: torch.Tensor, said: LogProbs | None, rows: Sequence[Row]) -> torch.Tensor:
        for _, option in self._options:
            more = option.more_loss(self, said, rows)
            loss = loss if more is None else loss + more
        return loss

    @contextmanager
    def as_parent(self) -> Iterator[None]:
        """Within, the model is its parent."""
        now = {name: one.data for name, one in self.parameters.items()}
        # The tensors are exchanged, not overwritten: a backward pass may still need what they held.
        for name, one in self.parameters.items():
            one.data = self.parent[name].to(one)
        try:
            yield
        finally:
            for name, one in self.parameters.items():
                one.data = now[name]

    def replay_rows(self) -> Iterator[Sequence[Row]]:
        """Earlier examples, or the new ones where there are none, in batches."""
        rows = [self._pair(example)[0] for example in self._replayed]
        for start in range(0, len(rows), self.settings.batch):
            yield rows[start : start + self.settings.batch]

    def _put(self, tensors: Tensors) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[name])

    def _pair(self, example: Example) -> tuple[Row, Row | None]:
        first = self.encoder.row(example.prompt, example.answer, example.ended, example.task)
        if example.rejected is None:
            return first, None
        return first, self.encoder.row(example.prompt, example.rejected, example.rejected_ended)

    def _refer(self) -> None:
        """[examples, 3]: what the parent says of each answer, of the rejected one, and of the mismatched one."""
        self._reference = torch.zeros(len(self.examples), 3)
        for column, rows in enumerate(
            (
                {i: rows[0] for i, rows in enumerate(self._rows) if self.examples[i].kind != "sft"},
                {i: rows[1] for i, rows in enumerate(self._rows) if rows[1] is not None},
                self._mismatched,
            )
        ):
            if rows:
                found = sums(self.model, list(rows.values()), self.padding, self.settings.batch)
                self._reference[list(rows), column] = found

    def _rate(self, step: int) -> float:
        warm = max(1, round(self.settings.warmup * self.steps))
        if step < warm:
            return self.settings.learning_rate * (step + 1) / warm
        return self.settings.learning_rate * (self.steps - step) / max(1, self.steps - warm)

    def _check_divergence(self, step: int, loss: float) -> None:
        self._smooth = loss if self._smooth is None else _SMOOTH * self._smooth + (1 - _SMOOTH) * loss
        self._best = min(self._best, self._smooth)
        if self._smooth > _DIVERGED * self._best + 1:
            raise TrainingFailed(
                f"it diverges: the loss is about {self._smooth:.3g} at step {step + 1}, it was {self._best:.3g}"
            )

    def _save(self, path: Path, step: int, optimizer: torch.optim.Optimizer) -> None:
        tensors: Tensors = {}
        for name, parameter in self.parameters.items():
            tensors[f"parameter/{name}"] = parameter
            for part, value in optimizer.state[parameter].items():
                tensors[f"optimizer/{part}/{name}"] = value
        for name, option in self._options:
            tensors |= {f"option/{name}/{part}": value for part, value in option.state().items()}
        checkpoint.write(path, self._key, step, self.curve, tensors)

    def _resume(self, path: Path, optimizer: torch.optim.Optimizer) -> int:
        found = checkpoint.read(path, self._key)
        if found is None:
            return 0
        step, self.curve, tensors = found
        self._put({name: tensors[f"parameter/{name}"] for name in self.parameters})
        for name, parameter in self.parameters.items():
            parts = ("step", "exp_avg", "exp_avg_sq")
            optimizer.state[parameter] = {
                part: tensors[f"optimizer/{part}/{name}"].to("cpu" if part == "step" else parameter.device)
                for part in parts
            }
        for name, option in self._options:
            prefix = f"option/{name}/"
            option.restore({key.removeprefix(prefix): one for key, one in tensors.items() if key.startswith(prefix)})
        return step


def _content(tensors: Tensors) -> list[float]:
    return [float(tensor.double().sum()) for tensor in tensors.values()]
