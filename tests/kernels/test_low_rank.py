import pytest
import torch

from polyad.kernels.low_rank import Rows, add_low_rank

TOKENS = 11
ROWS: dict[str, Rows] = {
    "all": slice(0, TOKENS),
    "some in a row": slice(3, 8),
    "one": slice(4, 5),
    "none": slice(2, 2),
    "scattered": torch.tensor([0, 2, 3, 10]),
    "in any order": torch.tensor([9, 1, 4]),
    "one by index": torch.tensor([7]),
    "none by index": torch.tensor([], dtype=torch.int64),
}
SHAPES = [(1, 1, 1), (7, 13, 3), (64, 32, 8), (33, 129, 16), (576, 192, 1)]
# Largest error, as a multiple of the dtype's epsilon.
UNITS = {torch.float64: 16, torch.float32: 16, torch.bfloat16: 1}


def numbers(*shape: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def dense(y: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, rows: Rows) -> torch.Tensor:
    result = y.double().clone()
    result[rows] += x.double()[rows] @ a.double().t() @ b.double().t()
    return result


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
@pytest.mark.parametrize(("inputs", "outputs", "rank"), SHAPES)
@pytest.mark.parametrize("dtype", UNITS, ids=str)
def test_equals_the_dense_formula(dtype: torch.dtype, inputs: int, outputs: int, rank: int, rows: Rows) -> None:
    x, y = numbers(TOKENS, inputs, dtype=dtype, seed=1), numbers(TOKENS, outputs, dtype=dtype, seed=2)
    a, b = numbers(rank, inputs, dtype=dtype, seed=3), numbers(outputs, rank, dtype=dtype, seed=4)
    expected = dense(y, x, a, b, rows)
    # what is added up, without its signs: the errors of sums are in proportion to that
    scale = dense(y.abs(), x.abs(), a.abs(), b.abs(), slice(0, TOKENS))
    add_low_rank(y, x, a, b, rows)
    error = (y.double() - expected).abs()
    assert bool((error <= UNITS[dtype] * torch.finfo(dtype).eps * scale).all()), float((error / scale).max())


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
def test_other_rows_and_columns_are_not_touched(rows: Rows) -> None:
    x = numbers(TOKENS, 24, dtype=torch.bfloat16, seed=1)
    a, b = numbers(4, 24, dtype=torch.bfloat16, seed=2), numbers(10, 4, dtype=torch.bfloat16, seed=3)
    whole = numbers(TOKENS, 30, dtype=torch.bfloat16, seed=4)
    before = whole.clone()
    add_low_rank(whole[:, 15:25], x, a, b, rows)
    changed = (whole != before).nonzero().tolist()
    wanted = torch.arange(TOKENS)[rows].tolist()
    assert {row for row, _ in changed} == set(wanted)
    assert {column for _, column in changed} <= set(range(15, 25))
    assert len(changed) >= 0.9 * 10 * len(wanted)


def test_factors_may_be_corners_of_larger_tensors() -> None:
    """As slots hold them: the largest rank is reserved, and what lies beyond the version's own rank is another's."""
    stacked_a, stacked_b = torch.full((16, 24), torch.nan), torch.full((10, 16), torch.nan)
    stacked_a[:3] = numbers(3, 24, dtype=torch.float32, seed=1)
    stacked_b[:, :3] = numbers(10, 3, dtype=torch.float32, seed=2)
    x, y = numbers(TOKENS, 24, dtype=torch.float32, seed=3), torch.zeros(TOKENS, 10)
    add_low_rank(y, x, stacked_a[:3], stacked_b[:, :3], slice(0, TOKENS))
    expected = x.double() @ stacked_a[:3].double().t() @ stacked_b[:, :3].double().t()
    torch.testing.assert_close(y.double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rows", [slice(0, TOKENS), torch.arange(TOKENS)], ids=["slice", "index"])
def test_the_sum_is_rounded_once(rows: Rows) -> None:
    """Where y and the term nearly cancel, a term rounded before the sum would be wrong by its own last place."""
    x = torch.eye(TOKENS, dtype=torch.bfloat16)
    a, b = torch.eye(TOKENS, dtype=torch.bfloat16)[:4], numbers(9, 4, dtype=torch.bfloat16, seed=5)
    a[0] = a[1] = a[2] = a[3] = 1
    term = (x.double() @ a.double().t()) @ b.double().t()
    y = -term.to(torch.bfloat16)
    exact = y.double() + term
    assert float(exact.abs().max()) > 0
    add_low_rank(y, x, a, b, rows)
    torch.testing.assert_close(y.double(), exact, atol=1e-6, rtol=2**-8)


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_rows_of_several_versions_add_up_to_the_whole(contiguous: bool, seed: int) -> None:
    """Each row by its own factors, whether the rows of a version lie together or not."""
    owners = torch.randint(0, 3, (TOKENS,), generator=torch.Generator().manual_seed(seed))
    if contiguous:
        owners = owners.sort().values
    x, y = numbers(TOKENS, 20, dtype=torch.float64, seed=1), numbers(TOKENS, 6, dtype=torch.float64, seed=2)
    factors = [
        (numbers(rank, 20, dtype=torch.float64, seed=rank), numbers(6, rank, dtype=torch.float64, seed=9 + rank))
        for rank in (1, 2, 5)
    ]
    expected = torch.stack(
        [y[row] + factors[owner][1] @ (factors[owner][0] @ x[row]) for row, owner in enumerate(owners.tolist())]
    )
    for owner, (a, b) in enumerate(factors):
        add_low_rank(y, x, a, b, (owners == owner).nonzero().flatten())
    torch.testing.assert_close(y, expected)
