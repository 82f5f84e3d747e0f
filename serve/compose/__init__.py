"""From the `model` of a request to a plan."""

from polyad.serve.compose.expression import Expression, parse
from polyad.serve.compose.plan import Plan, Term
from polyad.serve.compose.resolver import Resolver

__all__ = ["Expression", "Plan", "Resolver", "Term", "parse"]
