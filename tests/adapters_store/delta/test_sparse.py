import pytest
import torch

from polyad.adapters_store.delta import Sparse
from polyad.adapters_store.delta.sparse import index_dtype
from polyad.adapters_store.errors import InvalidInput


def test_coordinates_are_row_major() -> None:
    term = Sparse(torch.tensor([0, 3, 5], dtype=torch.int32), torch.ones(3), (2, 3))
    rows, columns = term.coordinates()
    assert torch.stack([rows, columns]).tolist() == [[0, 1, 1], [0, 0, 2]]
    assert (term.count, term.size) == (3, 24)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 2**31 - 1), torch.int32),
        ((2, 2**30), torch.int64),
        ((2**31 - 1, 2**31 - 1), torch.int64),
    ],
)
def test_indices_are_as_wide_as_the_matrix_needs(shape: tuple[int, int], dtype: torch.dtype) -> None:
    assert index_dtype(shape) == dtype
    last = shape[0] * shape[1] - 1
    rows, columns = Sparse(torch.tensor([last], dtype=dtype), torch.ones(1), shape).coordinates()
    assert (int(rows), int(columns)) == (shape[0] - 1, shape[1] - 1)
    other = torch.int64 if dtype == torch.int32 else torch.int32
    with pytest.raises(
        InvalidInput, match=f"sparse.indices: got 'torch.{other}'.*{dtype}".replace("torch.torch", "torch")
    ):
        Sparse(torch.zeros(1, dtype=other), torch.ones(1), shape)


@pytest.mark.parametrize(
    ("indices", "values", "shape", "message"),
    [
        ([0, 0], [1.0, 1.0], (2, 3), "each once"),
        ([1, 0], [1.0, 1.0], (2, 3), "ascending"),
        ([-1, 0], [1.0, 1.0], (2, 3), "0 to 5"),
        ([0, 6], [1.0, 1.0], (2, 3), "0 to 5"),
        ([0], [1.0, 1.0], (2, 3), "as many indices as values"),
        ([[0]], [[1.0]], (2, 3), "in one dimension"),
        ([0], [1], (2, 3), "floating"),
        ([], [], (0, 3), "both positive"),
        ([], [], (3,), "both positive"),
    ],
)
def test_refused(indices: list[int], values: list[float], shape: tuple[int, int], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Sparse(torch.tensor(indices, dtype=torch.int32), torch.tensor(values), shape)


def test_nothing_may_be_stored() -> None:
    assert Sparse(torch.empty(0, dtype=torch.int32), torch.empty(0), (2, 3)).count == 0
