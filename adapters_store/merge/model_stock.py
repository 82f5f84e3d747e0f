"""Model stock (arXiv 2403.19522): how far to go from the base to the mean, from the angles between the task vectors.

    cos = mean over pairs of <a, b> / (|a| |b|);  t = N cos / (1 + (N - 1) cos);  result = t / N (sum of the task
    vectors)

matrix by matrix, exact. The paper's t is a share: below zero (the task vectors point away from each other) it is
zero, and the base is kept. mergekit lets it be negative.
"""

import math
from collections.abc import Sequence
from itertools import combinations

from polyad.adapters_store.merge.method import Form, Method, Products
from polyad.adapters_store.merge.parameter import SCALE

_LEAST_NORMS = 1e-6
_SINGULAR = 1e-6


def _weights(one: Products) -> Sequence[float]:
    count = len(one.products)
    norms = [math.sqrt(max(row[place], 0.0)) for place, row in enumerate(one.products)]
    cosines = [
        max(-1.0, min(1.0, one.products[a][b] / max(norms[a] * norms[b], _LEAST_NORMS)))
        for a, b in combinations(range(count), 2)
    ]
    cosine = sum(cosines) / len(cosines)
    divisor = 1 + (count - 1) * cosine
    t = count * cosine / divisor if abs(divisor) >= _SINGULAR else 0.0
    if one.values["variant"] == "paper":
        t = max(t, 0.0)
    return [t / count * one.values["scale"]] * count


MODEL_STOCK = Method(
    name="model_stock",
    title="Model stock",
    paper="arXiv 2403.19522",
    form=Form.LOW_RANK,
    parameters=(SCALE,),
    variants=("paper", "mergekit"),
    least_inputs=2,
    coefficients=_weights,
    needs_products=True,
    unweighted_variants=frozenset({"paper", "mergekit"}),
)
