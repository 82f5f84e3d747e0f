"""TIES (arXiv 2306.01708): trim each task vector, elect a sign for each element, average what agrees with it.

- `mergekit`: each tensor is trimmed by itself; the sign is that of the weighted sum; divided by the sum of the weights
  that agree. polyad's default.
- `peft`: the sign is that of the unweighted sum; divided by how many agree, so that weights of 0.5 halve the result.
- `paper`: trimmed over the whole model; no weights; the mean of what agrees. A sum of exactly zero elects the majority
  sign of its tensor (of the model in the authors' code).
"""

import dataclasses
from functools import cache

from polyad.adapters_store.merge.consensus import COUNTED, PAPER, WEIGHTED, Election, agreeing
from polyad.adapters_store.merge.magnitude_prune import trimmed_by_magnitude
from polyad.adapters_store.merge.method import Form, Method, Tensors, Values
from polyad.adapters_store.merge.parameter import SCALE, Parameter, share
from polyad.adapters_store.merge.task import Result

SIGN = Parameter(name="sign", default="total", choices=("total", "frequency"))
NORMALIZE = Parameter(name="normalize", default=True)

_RULES = {"mergekit": WEIGHTED, "peft": COUNTED, "paper": PAPER}


def election(values: Values) -> Election:
    """The rule of a variant."""
    return _election(values["variant"], values["sign"], values["normalize"])


@cache
def _election(variant: str, sign: str, normalize: bool) -> Election:
    rule = dataclasses.replace(_RULES[variant], frequency=sign == "frequency")
    return rule if normalize else dataclasses.replace(rule, divide="none")


def _ties(tensors: Tensors) -> Result:
    return agreeing(trimmed_by_magnitude(tensors), tensors.weights, election(tensors.values), tensors.values["scale"])


TIES = Method(
    name="ties",
    title="TIES",
    paper="arXiv 2306.01708",
    form=Form.SPARSE,
    parameters=(share("density", 0.2), SCALE, SIGN, NORMALIZE),
    variants=("mergekit", "peft", "paper"),
    combine=_ties,
    negative_weights=False,
    unweighted_variants=frozenset({"paper"}),
    whole_model=frozenset({"paper"}),
    survey_share="density",
)
