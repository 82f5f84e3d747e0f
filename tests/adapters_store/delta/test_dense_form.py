import itertools

import pytest
import torch

from polyad.adapters_store.delta import ModuleDelta, dense
from polyad.adapters_store.errors import InvalidInput
from tests.fixtures.deltas import TERMS, random_module, written_out

SUBSETS = [subset for count in range(1, 6) for subset in itertools.combinations(TERMS, count)]


@pytest.mark.parametrize("terms", SUBSETS, ids="+".join)
def test_every_mixture_is_its_definition(terms: tuple[str, ...]) -> None:
    weight = torch.randn(5, 7, dtype=torch.float64)
    change = random_module((5, 7), terms, seed=len(terms))
    expected, expected_bias = written_out(change, weight)
    matrix, bias = dense(change, weight, dtype=torch.float64)
    if matrix is None:
        assert terms == ("bias",)
    else:
        torch.testing.assert_close(matrix, expected, rtol=1e-13, atol=1e-13)
    if bias is None:
        assert "bias" not in terms
    else:
        assert bias.equal(expected_bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_is_the_one_that_was_asked_for(dtype: torch.dtype) -> None:
    matrix, bias = dense(random_module((5, 7), TERMS, 1, torch.float32), torch.ones(5, 7), dtype=dtype)
    assert matrix is not None and matrix.dtype == dtype
    assert bias is not None and bias.dtype == dtype


def test_weight_is_needed_by_scales_alone() -> None:
    assert dense(random_module((5, 7), ("low_rank", "sparse", "bias"), 1))[0] is not None
    assert dense(ModuleDelta()) == (None, None)
    for name, size in (("row_scale", 5), ("column_scale", 7)):
        change = ModuleDelta(**{name: torch.ones(size)})  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="weight: got None"):
            dense(change)
        with pytest.raises(InvalidInput, match=r"weight: got \(6, 6\)"):
            dense(change, torch.ones(6, 6))
