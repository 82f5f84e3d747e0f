"""Spherical interpolation of two task vectors, matrix by matrix: exact, one weight for each input and matrix.

    cos(angle) = <a, b> / (|a| |b|);  result = sin((1 - t) angle) / sin(angle) a + sin(t angle) / sin(angle) b

with a and b as they are, not normalised. NuSLERP takes t from the weights: w2 / (w1 + w2). Where the angle says nothing
(parallel, opposite, or a zero vector), it is (1 - t) a + t b.
"""

import math
from collections.abc import Sequence

from polyad.adapters_store.merge.method import Form, Method, Products
from polyad.adapters_store.merge.parameter import Parameter

_PARALLEL = 0.9995
_ALMOST_PARALLEL = 1e-8


def _slerp(one: Products) -> Sequence[float]:
    return coefficients(one.products, one.values["t"], _PARALLEL)


def _nuslerp(one: Products) -> Sequence[float]:
    total = sum(one.weights)
    t = one.weights[1] / total if abs(total) >= 1e-6 else 0.5
    return coefficients(one.products, t, math.sqrt(1 - _ALMOST_PARALLEL**2))


def coefficients(products: Sequence[Sequence[float]], t: float, parallel: float) -> tuple[float, float]:
    """The two weights; a line beyond the cosine `parallel`."""
    norm = math.sqrt(max(products[0][0], 0.0)) * math.sqrt(max(products[1][1], 0.0))
    cosine = max(-1.0, min(1.0, products[0][1] / norm)) if norm else 1.0
    if abs(cosine) >= parallel:
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


SLERP = Method(
    name="slerp",
    title="Spherical interpolation",
    paper="doi:10.1145/325334.325242",
    form=Form.LOW_RANK,
    parameters=(Parameter(name="t", default=0.5, low=0, high=1),),
    variants=("mergekit",),
    least_inputs=2,
    most_inputs=2,
    coefficients=_slerp,
    needs_products=True,
    unweighted_variants=frozenset({"mergekit"}),
    on_weights=True,
)
NUSLERP = Method(
    name="nuslerp",
    title="NuSLERP",
    paper="doi:10.1145/325334.325242",
    form=Form.LOW_RANK,
    variants=("mergekit",),
    least_inputs=2,
    most_inputs=2,
    coefficients=_nuslerp,
    needs_products=True,
)
