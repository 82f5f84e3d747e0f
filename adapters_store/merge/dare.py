"""DARE (arXiv 2311.03099): drop elements of each task vector at random, scale up what is left; then sum, or TIES.

- `paper`, `peft`: what is left is divided by the density, so that the expectation is the task vector. For dare_ties the
  paper's merge knows no weights, and PEFT's divides by a count (see ties).
- `mergekit`: what is left is scaled to the L1 norm of the whole.
"""

import dataclasses

from polyad.adapters_store.merge.consensus import agreeing, total
from polyad.adapters_store.merge.counter_random import stream
from polyad.adapters_store.merge.method import Form, Method, Tensors
from polyad.adapters_store.merge.parameter import SCALE, share
from polyad.adapters_store.merge.task import Left, Result
from polyad.adapters_store.merge.ties import NORMALIZE, SIGN, election
from polyad.adapters_store.merge.trim import Rescale, random


def _dropped(tensors: Tensors) -> list[Left]:
    rescale: Rescale = "l1" if tensors.values["variant"] == "mergekit" else "share"
    return [
        random(task, density, stream(tensors.seed, tensors.name, place), rescale)
        for place, (task, density) in enumerate(zip(tensors.sources, tensors.each("density"), strict=True))
    ]


def _dare_linear(tensors: Tensors) -> Result:
    return total(_dropped(tensors), tensors.weights, scale=tensors.values["scale"])


def _dare_ties(tensors: Tensors) -> Result:
    return agreeing(_dropped(tensors), tensors.weights, election(tensors.values), tensors.values["scale"])


DARE_LINEAR = Method(
    name="dare_linear",
    title="DARE, summed",
    paper="arXiv 2311.03099",
    form=Form.SPARSE,
    parameters=(share("density", 0.2), SCALE),
    variants=("paper", "mergekit", "peft"),
    combine=_dare_linear,
)
DARE_TIES = Method(
    name="dare_ties",
    title="DARE, then TIES",
    paper="arXiv 2311.03099",
    form=Form.SPARSE,
    parameters=(share("density", 0.2), SCALE, SIGN, dataclasses.replace(NORMALIZE, default=False)),
    variants=("mergekit", "peft", "paper"),
    combine=_dare_ties,
    negative_weights=False,
    unweighted_variants=frozenset({"paper"}),
)
