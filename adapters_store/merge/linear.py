"""Weighted sums of deltas. They are exact at run time: a request gets a blend, and nothing is materialised.

What an input does not change counts as zero, and is not skipped: the mean of a delta and one that lacks the module
is half of it.
"""

from collections.abc import Sequence

from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.merge.method import Form, Method, Products
from polyad.adapters_store.merge.parameter import SCALE, Parameter


def _linear(one: Products) -> Sequence[float]:
    if not one.values["normalize"]:
        return one.weights
    total = sum(one.weights)
    if not total:
        raise InvalidInput("normalize", "true", "false where the weights sum to 0")
    return [weight / total for weight in one.weights]


def _scaled(one: Products) -> Sequence[float]:
    return [one.values["scale"] * weight for weight in one.weights]


def _mean(one: Products) -> Sequence[float]:
    return [weight / len(one.weights) for weight in one.weights]


def _interpolate(one: Products) -> Sequence[float]:
    return [one.values["alpha"] * weight for weight in one.weights]


LINEAR = Method(
    name="linear",
    title="Weighted sum",
    paper="arXiv 2203.05482",
    form=Form.WEIGHTS,
    parameters=(Parameter(name="normalize", default=False),),
    coefficients=_linear,
    on_weights=True,
)
TASK_ARITHMETIC = Method(
    name="task_arithmetic",
    title="Task arithmetic",
    paper="arXiv 2212.04089",
    form=Form.WEIGHTS,
    parameters=(SCALE,),
    coefficients=_scaled,
)
SOUP = Method(
    name="soup",
    title="Uniform soup",
    paper="arXiv 2203.05482",
    form=Form.WEIGHTS,
    coefficients=_mean,
)
CHECKPOINT_AVERAGE = Method(
    name="checkpoint_average",
    title="Mean of the checkpoints of a run",
    paper="arXiv 1803.05407",
    form=Form.WEIGHTS,
    coefficients=_mean,
)
INTERPOLATE = Method(
    name="interpolate",
    title="WiSE-FT: between the base and one fine-tune",
    paper="arXiv 2109.01903",
    form=Form.WEIGHTS,
    parameters=(Parameter(name="alpha", default=0.5),),
    most_inputs=1,
    coefficients=_interpolate,
)
