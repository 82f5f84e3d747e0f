"""One module of every input of a merge. Shape suffixes: O output features, I input features."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import torch

from polyad.adapters_store.delta import Delta, Grams, LowRank, ModuleDelta, dense, module_inner_products, module_sum
from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.merge.recipe import Input
from polyad.adapters_store.merge.task import ModuleTask, Task, term_of
from polyad.adapters_store.merge.workspace import Workspace
from polyad.kernels import factors, sieve

Weights = Callable[[str], torch.Tensor]

_SAMPLED_ROWS = 32


@dataclass(frozen=True, eq=False)
class ModuleInputs:
    """`changes` are those of the inputs, None where one does not touch the module; `weight` is the base's W, if
    known."""

    module: str
    changes: Sequence[ModuleDelta | None]
    shape: tuple[int, int]
    weight: torch.Tensor | None

    @classmethod
    def of(
        cls, module: str, inputs: Sequence[Input], deltas: Mapping[str, Delta], weights: Weights | None
    ) -> "ModuleInputs":
        """Raises InvalidInput where a scale needs a base weight that is not there, or shapes differ."""
        changes = [_summed(module, one, deltas) for one in inputs]
        scaled = any(change is not None and change.scales_weight for change in changes)
        weight = weights(module) if scaled and weights is not None else None
        return cls(module, changes, _shape(module, changes, weight), weight)

    @property
    def has_bias(self) -> bool:
        return any(change is not None and change.bias is not None for change in self.changes)

    @property
    def has_matrix(self) -> bool:
        return any(
            change is not None and (change.low_rank is not None or change.sparse is not None or change.scales_weight)
            for change in self.changes
        )

    def tasks(self, workspace: Workspace) -> list[Task]:
        """dW of every input, until the thread asks for others: its memory is used again."""
        return [self._task(change, workspace, str(place)) for place, change in enumerate(self.changes)]

    def _task(self, change: ModuleDelta | None, workspace: Workspace, name: str) -> Task:
        if change is not None and change.is_low_rank and change.low_rank is not None:
            low_rank = change.low_rank
            term = term_of(low_rank.a, low_rank.b, low_rank.scale)
            if sieve.takes(term):
                return ModuleTask(term, self.shape, workspace, name)
        whole = None if change is None else dense(change, self.weight)[0]
        out = workspace.matrix(name, self.shape)
        return ModuleTask(out.zero_() if whole is None else out.copy_(whole), self.shape, workspace, name)

    def biases(self) -> list[torch.Tensor]:
        """db of every input, float32, new memory."""
        return [
            torch.zeros(self.shape[0]) if change is None or change.bias is None else change.bias.float().clone()
            for change in self.changes
        ]

    def products(self) -> Sequence[Sequence[float]]:
        """The inner products of the inputs' changes, from their terms."""
        return self.grams.products if self.grams is not None else module_inner_products(self.changes, self.weight)

    @cached_property
    def grams(self) -> Grams | None:
        """Of all inputs, in order, if each has a low-rank term and nothing else."""
        terms = [change.low_rank for change in self.changes if change is not None and change.is_low_rank]
        present = [term for term in terms if term is not None]
        return Grams.of(present) if len(present) == len(self.changes) else None

    def conflict(self) -> float:
        """The share of elements with opposite signs among those that several inputs change, on evenly spaced rows."""
        opposite, several = self._disagreement(max(self.shape[0] // _SAMPLED_ROWS, 1))
        return opposite / several if several else 0.0

    def _disagreement(self, every: int) -> tuple[int, int]:
        """Of every so many-th row: how many elements have opposite signs in two inputs, and how many two change."""
        if self.grams is not None and self.grams.native:
            return factors.disagree(self.grams.native, every)
        parts = [_rows_of(change, every, self.weight) for change in self.changes if change is not None]
        changed = [part for part in parts if part is not None]
        if len(changed) < 2:
            return 0, 0
        opposite = (reduce(torch.minimum, changed) < 0) & (reduce(torch.maximum, changed) > 0)
        several = torch.as_tensor(sum((part != 0).to(torch.int32) for part in changed)) >= 2
        return int(torch.count_nonzero(opposite)), int(torch.count_nonzero(several))


def _summed(module: str, one: Input, deltas: Mapping[str, Delta]) -> ModuleDelta | None:
    changes, coefficients = [], []
    for source, coefficient in one.terms:
        if source not in deltas:
            raise InvalidInput("inputs", source, "adapters that are there")
        change = deltas[source].modules.get(module)
        if change is not None:
            changes.append(change)
            coefficients.append(coefficient)
    if len(changes) == 1 and coefficients[0] == 1:
        return changes[0]
    return module_sum(module, changes, coefficients)


def _shape(module: str, changes: Sequence[ModuleDelta | None], weight: torch.Tensor | None) -> tuple[int, int]:
    outs = {change.out_features for change in changes if change is not None} - {None}
    ins = {change.in_features for change in changes if change is not None} - {None}
    if weight is not None:
        outs.add(weight.shape[0])
        ins.add(weight.shape[1])
    if len(outs) > 1 or len(ins) > 1:
        raise InvalidInput(module, [sorted(map(str, outs)), sorted(map(str, ins))], "adapters of one base model")
    return outs.pop() or 1 if outs else 1, ins.pop() or 1 if ins else 1


def _rows_of(change: ModuleDelta, every: int, weight: torch.Tensor | None) -> torch.Tensor | None:
    term = change.low_rank
    if term is not None and change.is_low_rank:
        rows, _ = dense(ModuleDelta(low_rank=LowRank(term.a, term.b[::every], term.scale)))
        return rows
    whole, _ = dense(change, weight)
    return None if whole is None else whole[::every]
