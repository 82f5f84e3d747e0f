"""What is said of the inputs of one module, against its definition, on the matrices written out."""

import pytest
import torch

from polyad.adapters_store.delta import LowRank, ModuleDelta, Sparse, dense
from polyad.adapters_store.merge.module_inputs import ModuleInputs
from polyad.adapters_store.merge.task import matrix
from polyad.adapters_store.merge.workspace import Workspace

SHAPE = (12, 9)


def low_rank(seed: int) -> ModuleDelta:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, SHAPE[1], generator=generator), torch.randn(SHAPE[0], 2, generator=generator)
    return ModuleDelta(low_rank=LowRank(a, b, -0.5))


def sparse(seed: int) -> ModuleDelta:
    generator = torch.Generator().manual_seed(seed)
    places = torch.randperm(SHAPE[0] * SHAPE[1], generator=generator)[:40].sort().values.int()
    return ModuleDelta(sparse=Sparse(places, torch.randn(40, generator=generator), SHAPE))


def opposite(change: ModuleDelta) -> ModuleDelta:
    assert change.sparse is not None
    return ModuleDelta(sparse=Sparse(change.sparse.indices, -change.sparse.values, SHAPE))


def defined(changes: list[ModuleDelta | None]) -> float:
    """Element by element: of those that several inputs change, the share on which they disagree in sign."""
    matrices = [matrix for one in changes if one is not None and (matrix := dense(one)[0]) is not None]
    several = disagreed = 0
    for place in range(SHAPE[0] * SHAPE[1]):
        signs = [float(matrix.flatten()[place].sign()) for matrix in matrices]
        touched = [sign for sign in signs if sign]
        several += len(touched) >= 2
        disagreed += len(set(touched)) == 2
    return disagreed / several if several else 0.0


@pytest.mark.parametrize(
    "changes",
    [
        [low_rank(1), low_rank(2), low_rank(3)],
        [low_rank(1), sparse(2), None, sparse(3)],
        [sparse(1), sparse(2)],
        [sparse(1), ModuleDelta(bias=torch.ones(SHAPE[0]))],
        [low_rank(1), None],
        [*[sparse(1)] * 255, opposite(sparse(1))],
    ],
    ids=["low-rank", "mixed", "sparse", "bias alone", "one", "as many as a byte forgets"],
)
def test_conflict(changes: list[ModuleDelta | None]) -> None:
    inputs = ModuleInputs("layers.0.q", changes, SHAPE, None)
    assert inputs.conflict() == pytest.approx(defined(changes), abs=1e-12)


def test_matrices_are_those_written_out_however_often_their_memory_was_used() -> None:
    workspace = Workspace()
    for changes in ([low_rank(1), sparse(2)], [None, low_rank(3)], [sparse(4), None]):
        tasks = ModuleInputs("layers.0.q", changes, SHAPE, None).tasks(workspace)
        for task, change in zip(tasks, changes, strict=True):
            written = None if change is None else dense(change)[0]
            expected = torch.zeros(SHAPE) if written is None else written
            torch.testing.assert_close(matrix(task), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_factors_of_any_dtype_are_multiplied_in_float32(dtype: torch.dtype) -> None:
    term = low_rank(1).low_rank
    assert term is not None
    change = ModuleDelta(low_rank=LowRank(term.a.to(dtype), term.b.to(dtype), term.scale))
    (task,) = ModuleInputs("layers.0.q", [change], SHAPE, None).tasks(Workspace())
    torch.testing.assert_close(matrix(task), dense(change)[0], rtol=1e-6, atol=1e-6)
