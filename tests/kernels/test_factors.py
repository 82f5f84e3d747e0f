"""Native arithmetic of low-rank factors, in every instruction set of this machine, against torch in float64."""

import math

import pytest
import torch

from polyad.kernels import _factors, factors
from polyad.kernels.factors import Term

# (rank, out, in)
SHAPES = [(1, 1, 1), (3, 7, 33), (16, 64, 48), (5, 100, 65), (64, 33, 2111), (16, 192, 576), (130, 9, 20)]


@pytest.fixture(params=[*_factors.supported()], autouse=True)
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factors, "LANES", _factors.supported()[request.param])


def term(rank: int, rows: int, columns: int, scale: float = 0.5, seed: int = 0) -> Term:
    generator = torch.Generator().manual_seed(seed)
    return Term(torch.randn(rank, columns, generator=generator), torch.randn(rows, rank, generator=generator), scale)


def written(one: Term) -> torch.Tensor:
    return one.b_OR.double() @ one.a_RI.double() * one.scale


@pytest.mark.parametrize("shape", SHAPES)
def test_product_is_that_of_float64(shape: tuple[int, int, int]) -> None:
    one = term(*shape)
    out = torch.full(shape[1:], math.nan)
    factors.multiply(one, out)
    # As many roundings as ranks, each of a sum no larger than that of the magnitudes.
    magnitudes = written(Term(one.a_RI.abs(), one.b_OR.abs(), one.scale))
    assert bool(((out - written(one)).abs() <= magnitudes * shape[0] * 2**-24 + 1e-30).all())


@pytest.mark.parametrize("shape", SHAPES)
def test_product_has_the_same_bits_wherever_numbers_are_multiplied_and_added_at_once(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, found = term(*shape), []
    for name, lanes in _factors.supported().items():
        monkeypatch.setattr(factors, "LANES", lanes)
        if name != "portable":
            found.append(factors.multiply(one, torch.empty(shape[1:])))
    assert all(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_grams_are_those_of_float64(shape: tuple[int, int, int], count: int) -> None:
    rank, rows, columns = shape
    terms = [term(rank + place, rows, columns, seed=place) for place in range(count)]
    a_NN, b_NN, products = factors.grams(terms)
    a_NI = torch.cat([one.a_RI for one in terms]).double()
    b_ON = torch.cat([one.b_OR for one in terms], 1).double()
    for found, expected in ((a_NN, a_NI @ a_NI.t()), (b_NN, b_ON.t() @ b_ON)):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12 * float(expected.diagonal().max()))
        assert torch.equal(found, found.t())
    whole = torch.stack([written(one).flatten() for one in terms])
    expected = whole @ whole.t()
    bound = 1e-12 * float(expected.diagonal().max())
    torch.testing.assert_close(torch.tensor(products, dtype=torch.float64), expected, rtol=1e-12, atol=bound)


@pytest.mark.parametrize("shape", SHAPES)
def test_joined_terms_are_their_sum(shape: tuple[int, int, int]) -> None:
    rank, rows, columns = shape
    terms = [term(rank + place, rows, columns, scale=0.3 - place, seed=place) for place in range(3)]
    a_NI, b_ON = factors.join(terms)
    assert torch.equal(a_NI, torch.cat([one.a_RI for one in terms]))
    assert torch.equal(b_ON, torch.cat([one.b_OR * one.scale for one in terms], 1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("every", [1, 2, 7])
def test_disagreement_is_counted(shape: tuple[int, int, int], every: int) -> None:
    terms = [term(*shape, scale=scale, seed=place) for place, scale in enumerate((0.5, -2.0, 1.0))]
    # What one term leaves alone.
    terms[0].b_OR[::2] = 0
    parts = torch.stack([written(one)[::every] for one in terms])
    opposite = int(((parts.amin(0) < 0) & (parts.amax(0) > 0)).sum())
    several = int(((parts != 0).sum(0) >= 2).sum())
    assert factors.disagree(terms, every) == (opposite, several)


def test_a_term_of_scale_zero_agrees_with_everything() -> None:
    assert factors.disagree([term(4, 8, 8), term(4, 8, 8, scale=0.0, seed=1)], 1) == (0, 0)


def test_what_it_cannot_take_is_left_to_torch() -> None:
    one = term(4, 8, 8)
    assert factors.takes(one.a_RI, one.b_OR)
    assert not factors.takes(one.a_RI, one.b_OR.double())
    assert not factors.takes(one.a_RI.t()[::2])


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="no instruction set with 3 lanes"):
        _factors.grams(3, b"", 0, 0, 0, 0, 0)
    with pytest.raises(TypeError, match="takes 7 arguments"):
        _factors.grams(3)  # type: ignore[call-arg]
