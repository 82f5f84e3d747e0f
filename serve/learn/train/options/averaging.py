"""The result is the mean of the deltas of the `last` snapshots, one in `every` steps, cut back to the rank.

The mean of B A, never the mean of B times the mean of A.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from polyad.adapters_store.delta import Delta, LowRank, ModuleDelta, recompress, weighted_sum
from polyad.serve.learn.train.checkpoint import Tensors
from polyad.serve.learn.train.options.option import Option, Training, Values
from polyad.serve.learn.train.parent import delta_of, load, low_rank_parts


@dataclass
class Averaging(Option):
    defaults: ClassVar[Values] = {"last": 3, "every": 5}
    _snapshots: list[Delta] = field(default_factory=list)

    def after_step(self, training: Training, step: int) -> None:
        if (training.steps - 1 - step) % int(self.values["every"]) == 0:
            self._snapshots = [*self._snapshots, delta_of(training.model)][-int(self.values["last"]) :]

    def end(self, training: Training) -> None:
        if len(self._snapshots) > 1:
            load(training.model, mean(self._snapshots))

    def state(self) -> Tensors:
        return {
            f"{index}/{part.scale!r}/{module}/{factor}": getattr(part, factor)
            for index, delta in enumerate(self._snapshots)
            for module, part in low_rank_parts(delta).items()
            for factor in ("a", "b")
        }

    def restore(self, tensors: Tensors) -> None:
        found: dict[int, dict[str, dict[str, torch.Tensor]]] = {}
        scales: dict[str, float] = {}
        for name, tensor in tensors.items():
            index, scale, module, factor = name.split("/")
            found.setdefault(int(index), {}).setdefault(module, {})[factor] = tensor
            scales[module] = float(scale)
        self._snapshots = [
            Delta({m: ModuleDelta(low_rank=LowRank(f["a"], f["b"], scales[m])) for m, f in found[index].items()})
            for index in sorted(found)
        ]


def mean(deltas: list[Delta]) -> Delta:
    """The best delta of the same ranks to the mean of all."""
    summed = weighted_sum(deltas, [1 / len(deltas)] * len(deltas))
    modules = {}
    for module, part in low_rank_parts(summed).items():
        rank = low_rank_parts(deltas[0])[module].rank
        best = recompress(part, rank=rank).term
        a, b = torch.zeros(rank, best.a.shape[1]), torch.zeros(best.b.shape[0], rank)
        a[: best.rank], b[:, : best.rank] = best.a, best.b
        modules[module] = ModuleDelta(low_rank=LowRank(a, b, best.scale))
    return Delta(modules)
