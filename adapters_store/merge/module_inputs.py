"""One module of every input of a merge. Shape suffixes: O output features, I input features."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from polyad.adapters_store.delta import Delta, LowRank, ModuleDelta, dense, module_inner_product, weighted_sum
from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.merge.recipe import Input

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

    def matrices(self) -> list[torch.Tensor]:
        """dW of every input, float32, new memory."""
        found = [None if change is None else dense(change, self.weight)[0] for change in self.changes]
        return [torch.zeros(self.shape) if one is None else one for one in found]

    def biases(self) -> list[torch.Tensor]:
        """db of every input, float32, new memory."""
        return [
            torch.zeros(self.shape[0]) if change is None or change.bias is None else change.bias.float().clone()
            for change in self.changes
        ]

    def products(self) -> list[list[float]]:
        """The inner products of the inputs' changes, from their terms."""
        count = len(self.changes)
        found = [[0.0] * count for _ in range(count)]
        for one in range(count):
            for other in range(one, count):
                first, second = self.changes[one], self.changes[other]
                if first is not None and second is not None:
                    value = module_inner_product(first, second, self.weight)
                    found[one][other] = found[other][one] = value
        return found

    def conflict(self) -> float:
        """The share of elements with opposite signs among those that several inputs change, on evenly spaced rows."""
        rows = torch.arange(0, self.shape[0], max(self.shape[0] // _SAMPLED_ROWS, 1))
        signs = [_rows_of(change, rows, self.weight).sign() for change in self.changes if change is not None]
        touched = sum((one != 0).int() for one in signs)
        agreed = sum(signs, torch.zeros(())).abs()
        several = torch.as_tensor(touched >= 2)
        count = int(several.sum())
        return float((several & (agreed < touched)).sum()) / count if count else 0.0


def _summed(module: str, one: Input, deltas: Mapping[str, Delta]) -> ModuleDelta | None:
    parts, coefficients = [], []
    for source, coefficient in one.terms:
        if source not in deltas:
            raise InvalidInput("inputs", source, "adapters that are there")
        change = deltas[source].modules.get(module)
        if change is not None:
            parts.append(Delta({module: change}))
            coefficients.append(coefficient)
    if not parts:
        return None
    if len(parts) == 1 and coefficients[0] == 1:
        return parts[0].modules[module]
    return weighted_sum(parts, coefficients).modules.get(module)


def _shape(module: str, changes: Sequence[ModuleDelta | None], weight: torch.Tensor | None) -> tuple[int, int]:
    outs = {change.out_features for change in changes if change is not None} - {None}
    ins = {change.in_features for change in changes if change is not None} - {None}
    if weight is not None:
        outs.add(weight.shape[0])
        ins.add(weight.shape[1])
    if len(outs) > 1 or len(ins) > 1:
        raise InvalidInput(module, [sorted(map(str, outs)), sorted(map(str, ins))], "adapters of one base model")
    return outs.pop() or 1 if outs else 1, ins.pop() or 1 if ins else 1


def _rows_of(change: ModuleDelta, rows: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    if change.low_rank is not None and change.is_low_rank:
        term = change.low_rank
        matrix, _ = dense(ModuleDelta(low_rank=LowRank(term.a, term.b[rows], term.scale)))
    else:
        whole, _ = dense(change, weight)
        matrix = None if whole is None else whole[rows]
    return torch.zeros(len(rows), 1) if matrix is None else matrix
