"""What a merge method is: a declaration, and the function that it declares.

Two kinds of function make a delta of deltas. Shape suffixes: O output features, I input features.

- `coefficients`: one number for each input and matrix, from inner products; the result is their weighted sum, exactly,
  and nothing is written out. Where the numbers do not even depend on the matrix, a request computes the sum inside the
  batch, as a blend.
- `combine`: from the matrices dW (and vectors db) themselves, in float32, those of one module at a time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import torch

from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.merge.parameter import Parameter, Value
from polyad.adapters_store.merge.task import Result, Task, matrix

Values = Mapping[str, Any]


class Form(Enum):
    """The natural form of a result."""

    WEIGHTS = "weights"
    LOW_RANK = "low-rank"
    SPARSE = "sparse"
    DENSE = "dense"


@dataclass(frozen=True, eq=False)
class Tensors:
    """One tensor of each input, [O, I] or [O], float32, which `combine` may overwrite; a change that lacks it is zero.

    `tasks` are written out when they are asked for; `sources` are what they come from. `weights` are those of the
    inputs. `values` has every parameter of the method; for those that may differ between inputs, `each(name)` has one
    for each. `thresholds` are what `Method.survey` found, one for each input; `statistics` what was stored beside each
    input (Fisher information, Gram matrices).
    """

    name: str
    sources: Sequence[Task]
    weights: Sequence[float]
    values: Values
    per_input: Sequence[Values]
    seed: int = 0
    thresholds: Sequence[float] | None = None
    statistics: Sequence[torch.Tensor] | None = None

    @cached_property
    def tasks(self) -> list[torch.Tensor]:
        return [matrix(source) for source in self.sources]

    def each(self, name: str) -> list[Any]:
        return [values.get(name, self.values[name]) for values in self.per_input]


@dataclass(frozen=True, eq=False)
class Products:
    """Of one matrix: the inner products of the inputs' changes, <dW_i, dW_j> + <db_i, db_j>."""

    products: Sequence[Sequence[float]]
    weights: Sequence[float]
    values: Values


Coefficients = Callable[[Products], Sequence[float]]
Combine = Callable[[Tensors], Result]


@dataclass(frozen=True, kw_only=True, eq=False)
class Method:
    """`paper` is where it comes from. `variants`: the first is the default; one alone is what everybody computes.

    `needs_products` says that the coefficients depend on the matrix. `whole_model` names the variants that select over
    the whole model at once, `survey_share` then the parameter that says how much. `statistics` is the kind that must
    lie beside each input; `statistics_variants` the variants that need it, if it is not all of them.
    """

    name: str
    title: str
    paper: str
    form: Form
    parameters: tuple[Parameter, ...] = ()
    variants: tuple[str, ...] = ("paper",)
    least_inputs: int = 1
    most_inputs: int | None = None
    coefficients: Coefficients | None = None
    needs_products: bool = False
    combine: Combine | None = None
    negative_weights: bool = True
    unweighted_variants: frozenset[str] = frozenset()
    whole_model: frozenset[str] = frozenset()
    survey_share: str = ""
    statistics: str | None = None
    statistics_variants: frozenset[str] = frozenset()
    on_weights: bool = False

    def __post_init__(self) -> None:
        if (self.coefficients is None) == (self.combine is None):
            raise InvalidInput(f"method {self.name}", "both or none", "coefficients or combine")

    @property
    def is_blend(self) -> bool:
        """Whether it is exact as a weighted sum at run time, with one weight for each adapter."""
        return self.coefficients is not None and not self.needs_products

    def statistics_of(self, variant: str) -> str | None:
        """The kind of statistics that a variant needs of every input."""
        return self.statistics if not self.statistics_variants or variant in self.statistics_variants else None

    def parameter(self, name: str, field: str) -> Parameter:
        """Raises InvalidInput for one that the method does not have."""
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        known = ", ".join(parameter.name for parameter in self.parameters) or "none"
        raise InvalidInput(field, name, f"parameters of {self.name}: {known}")

    def defaults(self) -> dict[str, Value]:
        return {parameter.name: parameter.default for parameter in self.parameters}

    def check_variant(self, variant: str | None, field: str) -> str:
        """The variant, the default for None. Raises InvalidInput."""
        if variant is None:
            return self.variants[0]
        if variant not in self.variants:
            raise InvalidInput(field, variant, f"variants of {self.name}: {', '.join(self.variants)}")
        return variant

    def check_inputs(self, weights: Sequence[float], variant: str, field: str) -> None:
        """Raises InvalidInput for too few or too many inputs, or weights that the method has no meaning for."""
        most = self.most_inputs
        if len(weights) < self.least_inputs or (most is not None and len(weights) > most):
            allowed = f"{self.least_inputs}" if most == self.least_inputs else f"at least {self.least_inputs}"
            raise InvalidInput(field, f"{len(weights)} inputs", f"{allowed} for {self.name}")
        if not self.negative_weights and min(weights) < 0:
            raise InvalidInput(field, min(weights), f"weights of 0 or more: {self.name} divides by what agrees")
        if variant in self.unweighted_variants and any(weight != 1 for weight in weights):
            allowed = f"no weights: {self.name} (variant {variant}) knows none; `scale` scales the result"
            raise InvalidInput(field, list(weights), allowed)
