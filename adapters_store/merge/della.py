"""DELLA (arXiv 2406.11617): as DARE, but the larger an element is within its row, the likelier it stays.

- `mergekit`: from density - epsilon for the smallest of a row to density + epsilon for the largest; what is left is
  scaled to the L1 norm of the whole.
- `paper`: what is left is divided by its own probability.
"""

import dataclasses

from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.merge.consensus import WEIGHTED, agreeing, total
from polyad.adapters_store.merge.counter_random import stream
from polyad.adapters_store.merge.method import Form, Method, Tensors
from polyad.adapters_store.merge.parameter import SCALE, Parameter, share
from polyad.adapters_store.merge.task import Left, Result
from polyad.adapters_store.merge.ties import NORMALIZE
from polyad.adapters_store.merge.trim import Rescale, ranked


def _dropped(tensors: Tensors) -> list[Left]:
    rescale: Rescale = "l1" if tensors.values["variant"] == "mergekit" else "share"
    pairs = zip(tensors.tasks, tensors.each("density"), tensors.each("epsilon"), strict=True)
    dropped: list[Left] = []
    for place, (task, density, epsilon) in enumerate(pairs):
        if density < 1 and not epsilon < density < 1 - epsilon:
            raise InvalidInput(
                "epsilon", epsilon, f"less than both {density:g} and {1 - density:g}: density and the rest"
            )
        dropped.append(ranked(task, density, epsilon, stream(tensors.seed, tensors.name, place), rescale))
    return dropped


def _della(tensors: Tensors) -> Result:
    rule = WEIGHTED if tensors.values["normalize"] else dataclasses.replace(WEIGHTED, divide="none")
    return agreeing(_dropped(tensors), tensors.weights, rule, tensors.values["scale"])


def _della_linear(tensors: Tensors) -> Result:
    return total(_dropped(tensors), tensors.weights, scale=tensors.values["scale"])


_EPSILON = Parameter(name="epsilon", default=0.15, low=0, high=0.5, open_high=True)

DELLA = Method(
    name="della",
    title="DELLA, then TIES",
    paper="arXiv 2406.11617",
    form=Form.SPARSE,
    parameters=(share("density", 0.7), _EPSILON, SCALE, NORMALIZE),
    variants=("mergekit", "paper"),
    combine=_della,
    negative_weights=False,
)
DELLA_LINEAR = Method(
    name="della_linear",
    title="DELLA, summed",
    paper="arXiv 2406.11617",
    form=Form.SPARSE,
    parameters=(share("density", 0.7), _EPSILON, SCALE),
    variants=("mergekit", "paper"),
    combine=_della_linear,
)
