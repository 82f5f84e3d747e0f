"""What an option can do to a training: nothing, unless it says so."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch

from polyad.serve.learn.train.checkpoint import Tensors
from polyad.serve.learn.train.log_probs import LogProbs
from polyad.serve.learn.train.tokens import Row

Values = Mapping[str, float | int | str | bool]


class Training(Protocol):
    """What options know of the training that they are part of. `round` differs from one run of an adapter to the
    next; `as_parent` lets the model be its parent for a while."""

    model: Any
    parameters: dict[str, torch.nn.Parameter]
    parent: Tensors
    padding: int
    seed: int
    round: int
    steps: int

    def as_parent(self) -> AbstractContextManager[None]: ...

    def replay_rows(self) -> Iterator[Sequence[Row]]:
        """Earlier examples, or the new ones where there are none, in batches."""
        ...


@dataclass
class Option:
    """`values` holds the default of each setting; others are refused."""

    values: Values
    defaults: ClassVar[Values] = {}

    def begin(self, training: Training) -> None:
        """Before the first step, the model being its parent still."""

    def rows(self, training: Training, rows: Sequence[Row], step: int) -> Sequence[Row]:
        """What the model is given for taught answers, in place of `rows`."""
        return rows

    def taught(self, said: LogProbs, rows: Sequence[Row]) -> torch.Tensor | None:
        """The loss of taught answers, in place of the usual one."""
        return None

    def more_loss(self, training: Training, said: LogProbs | None, rows: Sequence[Row]) -> torch.Tensor | None:
        """What is added to the loss; `said` and `rows` are the taught answers', if the step has any."""
        return None

    def before_forward(self, training: Training, step: int) -> None:
        """Before the passes that are trained on."""

    def after_forward(self, training: Training) -> None:
        """After the step's backward pass, before its update."""

    def after_step(self, training: Training, step: int) -> None:
        """After the step's update."""

    def end(self, training: Training) -> None:
        """After the last step."""

    def state(self) -> Tensors:
        """What a checkpoint must hold of it."""
        return {}

    def restore(self, tensors: Tensors) -> None:
        """The contrary of `state`."""
