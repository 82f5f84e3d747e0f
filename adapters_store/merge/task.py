"""Task vectors, what one input changes in one tensor, and what is left of them.

Those that native code takes are sifted: what is left of them are values and their places, and a product of factors
never becomes a matrix. Of others, what is left is a tensor with zeros in it.
"""

from dataclasses import dataclass

import torch

from polyad.adapters_store.merge.workspace import Workspace
from polyad.kernels import sieve
from polyad.kernels.factors import Term, multiply
from polyad.kernels.merging import Rule


@dataclass(frozen=True, eq=False)
class ModuleTask:
    """What an input changes in a module: a matrix, or a product that nobody has multiplied out; float32.

    Memory is the thread's; `name` tells it from that of the module's other inputs.
    """

    source: sieve.Source
    shape: tuple[int, int]
    workspace: Workspace
    name: str

    def numel(self) -> int:
        return self.shape[0] * self.shape[1]


Task = torch.Tensor | ModuleTask
Left = torch.Tensor | sieve.Left
# Of several task vectors.
Result = torch.Tensor | sieve.Combination


def sifted(task: Task) -> tuple[sieve.Source, sieve.Room] | None:
    """What native code takes, and room for what is left of it; None where it does not."""
    if not isinstance(task, ModuleTask):
        return (task, sieve.room(task.numel())) if sieve.takes(task) else None
    return (task.source, task.workspace.room(task.name, task.numel())) if sieve.takes(task.source) else None


def matrix(task: Task) -> torch.Tensor:
    """A product is written to the thread's memory."""
    if not isinstance(task, ModuleTask):
        return task
    if isinstance(task.source, torch.Tensor):
        return task.source
    return multiply(task.source, task.workspace.matrix(task.name, task.shape))


def written(result: Result | Left) -> torch.Tensor:
    """As a tensor, in new memory if it was none."""
    if isinstance(result, sieve.Left):
        result = sieve.Combination([result], [1.0], Rule())
    return result.dense(torch.empty(result.shape)) if isinstance(result, sieve.Combination) else result


def term_of(a_RI: torch.Tensor, b_OR: torch.Tensor, scale: float) -> Term:
    """Factors of any dtype, as native code takes them."""
    return Term(a_RI.float().contiguous(), b_OR.float().contiguous(), scale)
