"""Task vectors, what one input changes in one tensor: as a tensor or the product of factors; and what is left of them.

Those that native code takes are sifted: what is left of them are values and their places, and a product of factors
never becomes a matrix. Of others, what is left is a tensor with zeros in it.
"""

from dataclasses import dataclass

import torch

from polyad.adapters_store.delta import LowRank
from polyad.adapters_store.merge.workspace import Workspace
from polyad.kernels import sieve
from polyad.kernels.factors import Term, multiply
from polyad.kernels.merging import Rule


@dataclass(frozen=True, eq=False)
class Product:
    """A product that nobody has multiplied out; float32. `name` tells it from the others of its module."""

    term: Term
    shape: tuple[int, int]
    workspace: Workspace
    name: str

    def numel(self) -> int:
        return self.shape[0] * self.shape[1]


Task = torch.Tensor | Product
Left = torch.Tensor | sieve.Left
# Of several task vectors.
Result = torch.Tensor | sieve.Combination


def product_of(factors: LowRank, workspace: Workspace, name: str) -> Product | None:
    """None where native code cannot take it."""
    term = Term(factors.a, factors.b, factors.scale)
    shape = len(factors.b), factors.a.shape[1]
    return Product(term, shape, workspace, name) if sieve.takes(term) else None


def sifted(task: Task) -> tuple[sieve.Source, sieve.Room] | None:
    """What native code takes, and room for what is left of it; None where it does not."""
    if isinstance(task, Product):
        return task.term, task.workspace.room(task.name, task.numel())
    return (task, sieve.room(task.numel())) if sieve.takes(task) else None


def matrix(task: Task) -> torch.Tensor:
    """A product is written to the thread's memory."""
    if isinstance(task, Product):
        return multiply(task.term, task.workspace.matrix(task.name, task.shape))
    return task


def written(result: Result | Left) -> torch.Tensor:
    """As a tensor, in new memory if it was none."""
    if isinstance(result, sieve.Left):
        result = sieve.Combination([result], [1.0], Rule())
    return result.dense(torch.empty(result.shape)) if isinstance(result, sieve.Combination) else result
