"""From the `model` of a request to a plan."""

from polyad.serve.compose.expression import Blend, Expression, Fusion, Merge, Reference, Weighted
from polyad.serve.compose.json_form import from_json, to_json
from polyad.serve.compose.merging import MergeDraft, Merges, MissingMerge
from polyad.serve.compose.parser import parse
from polyad.serve.compose.plan import FusedStreams, Plan, Term
from polyad.serve.compose.resolver import Resolver

__all__ = [
    "Plan",
    "FusedStreams",
    "Term",
    "Resolver",
    "Expression",
    "Reference",
    "Blend",
    "Weighted",
    "Merge",
    "Fusion",
    "MergeDraft",
    "Merges",
    "MissingMerge",
    "parse",
    "from_json",
    "to_json",
]
