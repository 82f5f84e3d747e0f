"""The learned graft (arXiv 2302.06600): which elements of an adapter's change its task needs, found by descent.

    gamma = gamma0 + (1 - 2 gamma0) sigmoid(S - 10),  W + gamma * dW,  gamma > 1/2 in the end

gamma0 are the largest elements of the whole change; S begins at zero, and follows the gradient of the task's loss. The
sigmoid is nearly flat there: rates are very large, as the authors' is. Shape suffixes: O output features, I input
features.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.delta import Delta, dense
from polyad.adapters_store.errors import InvalidInput, Unsupported
from polyad.adapters_store.merge.survey import whole_model_threshold
from polyad.serve.learn.merge_statistics import Track
from polyad.serve.learn.train import losses
from polyad.serve.learn.train.log_probs import log_probs, sums
from polyad.serve.learn.train.tokens import Row

Masks = dict[str, torch.Tensor]

_BIAS = 10.0


@dataclass(frozen=True)
class Learned:
    """`masks` by module, bool [O, I], and the `share` of the elements that they keep. The others are losses, in nats a
    token of the answers: of the base, with the `whole` change, with the masks that were begun with (`magnitude`), and
    with those that were `learned`.
    """

    masks: Masks
    share: float
    base: float
    whole: float
    magnitude: float
    learned: float

    @property
    def retained(self) -> float:
        """How much of the gain of the whole change the masks keep; not a number if it gains nothing."""
        gain = self.base - self.whole
        return (self.base - self.learned) / gain if gain > 0 else math.nan


@dataclass(frozen=True, kw_only=True)
class Graft:
    """`density` is the share of elements to begin with; each step reads `batch` examples."""

    density: float = 0.01
    epochs: int = 4
    batch: int = 8
    rate: float = 1e7

    def run(
        self, model: Any, base: BaseModel, delta: Delta, rows: Sequence[Row], padding: int, track: Track
    ) -> Learned:
        """Learn on the bare base model, which is as it was in the end. Raises InvalidInput for no rows, Unsupported
        for a change that is more than matrices.
        """
        if not rows:
            raise InvalidInput("examples", 0, "at least one")
        change = _Change.of(model, base, delta)
        steps = [rows[start : start + self.batch] for start in range(0, len(rows), self.batch)] * self.epochs
        begun = change.largest(self.density)

        def loss(masks: Mapping[str, torch.Tensor] | None) -> float:
            with change.applied(masks):
                said = float(sums(model, rows, padding, self.batch).sum())
            return -said / sum(len(row.answer) for row in rows)

        masks = self._descend(model, change, begun, steps, padding, track)
        ones = {name: torch.ones_like(mask) for name, mask in begun.items()}
        kept = sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
        return Learned(masks, kept, loss(None), loss(ones), loss(begun), loss(masks))

    def _descend(
        self, model: Any, change: "_Change", begun: Masks, steps: Sequence[Sequence[Row]], padding: int, track: Track
    ) -> Masks:
        scores = {name: torch.zeros(mask.shape) for name, mask in begun.items()}
        for rows in track(steps):
            gammas = {name: _gamma(begun[name], score) for name, score in scores.items()}
            with change.applied(gammas) as layers:
                gradients = _gradients(model, layers, rows, padding)
            for name, score in scores.items():
                chance = torch.sigmoid(score - _BIAS)
                # d loss / d S = d loss / d W * dW * d gamma / d S
                slope = chance.mul_(1 - chance).mul_(torch.where(begun[name], -1.0, 1.0))
                score.sub_(gradients[name].mul_(change.matrices[name]).mul_(slope), alpha=self.rate)
        return {name: _gamma(begun[name], score) > 0.5 for name, score in scores.items()}


def _gamma(begun_OI: torch.Tensor, score_OI: torch.Tensor) -> torch.Tensor:
    moved_OI = torch.sigmoid(score_OI - _BIAS)
    return torch.where(begun_OI, 1 - moved_OI, moved_OI)


def _gradients(model: Any, layers: Mapping[str, Any], rows: Sequence[Row], padding: int) -> dict[str, torch.Tensor]:
    weights = [layer.weight.requires_grad_(True) for layer in layers.values()]
    try:
        with torch.enable_grad():
            found = torch.autograd.grad(losses.sft(log_probs(model, rows, padding)), weights)
    finally:
        for weight in weights:
            weight.requires_grad_(False)
    return dict(zip(layers, found, strict=True))


@dataclass(frozen=True)
class _Change:
    """dW by module, and the layers that it is for."""

    layers: Mapping[str, Any]
    matrices: Mapping[str, torch.Tensor]

    @classmethod
    def of(cls, model: Any, base: BaseModel, delta: Delta) -> "_Change":
        model.eval().requires_grad_(False)
        layers, matrices = {}, {}
        for name, change in delta.modules.items():
            if change.bias is not None or name in base.transposed:
                raise Unsupported(
                    "adapter", f"{name} with a bias, or transposed", "changes of matrices [out, in] alone"
                )
            layers[name] = model.get_submodule(name)
            matrix_OI, _ = dense(change, layers[name].weight)
            if matrix_OI is not None:
                matrices[name] = matrix_OI
        return cls({name: layers[name] for name in matrices}, matrices)

    def largest(self, density: float) -> Masks:
        """The largest elements of all matrices together."""
        least = whole_model_threshold(lambda: self.matrices.values(), density)
        return {name: matrix_OI.abs() >= least for name, matrix_OI in self.matrices.items()}

    @contextmanager
    def applied(self, masks: Mapping[str, torch.Tensor] | None) -> Iterator[Mapping[str, Any]]:
        """Within, the model has this much of the change in its weights; None: nothing."""
        before = {name: layer.weight.data for name, layer in self.layers.items()}
        try:
            for name, layer in self.layers.items() if masks is not None else ():
                layer.weight.data = before[name] + masks[name] * self.matrices[name]  # type: ignore[index]
            yield self.layers
        finally:
            for name, layer in self.layers.items():
                layer.weight.data = before[name]
