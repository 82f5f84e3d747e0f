"""Native sieves, in every instruction set of this machine, against sorting and plain torch on what is written out."""

import math
from collections.abc import Callable

import pytest
import torch

from polyad.adapters_store.merge import consensus, counter_random, trim
from polyad.adapters_store.merge.task import Left, written
from polyad.kernels import _sieve, factors, merging, sieve
from polyad.kernels.factors import Term
from polyad.kernels.merging import Rule
from tests.kernels.task_vectors import KINDS, SIZES, normal, places, whole_numbers

# (rank, out, in): rows that end in the middle of a group, that are wider than a panel, that are alone.
SHAPES = [(1, 1, 1), (3, 7, 33), (16, 64, 48), (5, 100, 65), (4, 33, 2111), (2, 3, 20_001), (16, 192, 576)]
WEIGHTS = [1.0, 0.5, 2.0, -0.25]


@pytest.fixture(params=[*_sieve.supported()], autouse=True)
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sieve, factors, merging):
        monkeypatch.setattr(module, "LANES", _sieve.supported()[request.param])


def without(function: Callable[[], torch.Tensor]) -> torch.Tensor:
    """What torch gives where there is no native code."""
    with pytest.MonkeyPatch.context() as patched:
        for module in (sieve, merging):
            patched.setattr(module, "LANES", 0)
        return function()


def product(rank: int, rows: int, columns: int, seed: int = 0) -> Term:
    generator = torch.Generator().manual_seed(seed)
    return Term(torch.randn(rank, columns, generator=generator), torch.randn(rows, rank, generator=generator), 0.5)


def multiplied(term: Term) -> torch.Tensor:
    return factors.multiply(term, torch.empty(sieve.shape_of(term)))


def room(source: sieve.Source) -> sieve.Room:
    return sieve.room(math.prod(sieve.shape_of(source)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_band_is_what_a_stable_sort_keeps(kind: str, size: int) -> None:
    values = KINDS[kind](size)
    order = values.abs().sort(descending=True, stable=True).indices
    for dropped in (0, size // 100, size // 3):
        for kept in places(size - dropped):
            expected = torch.zeros_like(values)
            chosen = order[dropped : dropped + kept]
            expected[chosen] = values[chosen]
            assert torch.equal(written(sieve.band(values, room(values), dropped, kept)), expected)
    assert torch.equal(values, KINDS[kind](size))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("low", [0.0, 0.7])
def test_magnitudes_from_a_number_on(kind: str, size: int, low: float) -> None:
    values = KINDS[kind](size)
    assert torch.equal(written(sieve.above(values, room(values), low)), values * (values.abs() >= low))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("density", [0.0, 0.2, 1.0])
def test_elements_are_dropped_by_their_numbers(size: int, density: float) -> None:
    values, key = normal(size), counter_random.stream(3, "layers.0.q", size)
    expected = values * counter_random.keep(key, 0, size, density)
    to = room(values)
    before, after = sieve.random(values, to, key, counter_random.limit(density))
    assert torch.equal(written(sieve.Left(tuple(values.shape), to)), expected)
    assert before == pytest.approx(float(values.double().abs().sum()), rel=1e-12)
    assert after == pytest.approx(float(expected.double().abs().sum()), rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_product_is_sifted_as_if_it_were_multiplied_out(shape: tuple[int, int, int]) -> None:
    term = product(*shape)
    whole = multiplied(term)
    n, key, limit = whole.numel(), counter_random.stream(0, "q"), counter_random.limit(0.3)
    assert torch.equal(written(sieve.above(term, room(term), 0.0)), whole)
    for dropped, kept in ((0, -(-n // 5)), (n // 100, -(-n // 3))):
        assert torch.equal(
            written(sieve.band(term, room(term), dropped, kept)), written(sieve.band(whole, room(whole), dropped, kept))
        )
    one, other = room(term), room(whole)
    norms = [sieve.random(term, one, key, limit), sieve.random(whole, other, key, limit)]
    assert norms[0] == norms[1]
    shape = sieve.shape_of(term)
    assert torch.equal(written(sieve.Left(shape, one)), written(sieve.Left(shape, other)))


@pytest.mark.parametrize("elected", [False, True])
def test_results_have_the_same_bits_wherever_numbers_are_multiplied_and_added_at_once(
    elected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for name, lanes in _sieve.supported().items():
        monkeypatch.setattr(sieve, "LANES", lanes)
        if name != "portable":
            left = [sieve.band(product(16, 64, 65, seed), sieve.room(64 * 65), 3, 1000) for seed in range(3)]
            rule = Rule(elect=elected, weighted=True, divide="weights", scale=0.7)
            found.append(sieve.Combination(left, [0.3, 0.5, 0.9], rule).dense(torch.empty(64, 65)))
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_a_product_of_which_a_sample_says_little() -> None:
    """Half of the columns are zero, and one row is larger than all others."""
    term = product(4, 96, 128)
    term.a_RI[:, ::2] = 0
    term.b_OR[17] *= 1e6
    whole = multiplied(term)
    for kept in (1, 64, 65, 6000, 6144, 6145, 12_288):
        order = whole.abs().flatten().sort(descending=True, stable=True).indices[:kept]
        expected = torch.zeros_like(whole)
        expected.view(-1)[order] = whole.view(-1)[order]
        assert torch.equal(written(sieve.band(term, room(term), 0, kept)), expected)


def test_memory_that_was_used_before_changes_nothing() -> None:
    to = sieve.room(5000)
    to.where.fill_(-1)
    to.values.fill_(math.inf)
    values = normal(4999)
    assert torch.equal(written(sieve.above(values, to, 0.5)), values * (values.abs() >= 0.5))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rescale", ["none", "share", "l1"])
def test_dropping_and_rescaling_are_torchs(size: int, rescale: trim.Rescale) -> None:
    def dropped() -> torch.Tensor:
        return written(trim.random(normal(size), 0.3, 12345, rescale))

    torch.testing.assert_close(dropped(), without(dropped), rtol=1e-6, atol=0)


def some_left(size: int) -> list[Left]:
    first, second, third, fourth = whole_numbers(size)
    return [
        trim.magnitude(first, 0.4),
        trim.random(second, 0.5, 7, "share"),
        trim.outliers(third, 0.3, 0.1),
        trim.magnitude(fourth, 1.0),
    ]


@pytest.mark.parametrize("rule", [consensus.WEIGHTED, consensus.COUNTED, consensus.PAPER])
@pytest.mark.parametrize("frequency", [False, True])
@pytest.mark.parametrize("divide", ["weights", "count", "none"])
@pytest.mark.parametrize("size", SIZES)
def test_election_is_torchs(rule: consensus.Election, frequency: bool, divide: merging.Divide, size: int) -> None:
    election = consensus.Election(rule.weighted, divide, frequency, rule.zero)

    def agreed() -> torch.Tensor:
        return written(consensus.agreeing(some_left(size), WEIGHTS, election, 1.5))

    torch.testing.assert_close(agreed(), without(agreed), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_the_sum_is_torchs(size: int) -> None:
    def summed() -> torch.Tensor:
        return written(consensus.total(some_left(size), WEIGHTS, divisor=3.0, scale=0.5))

    torch.testing.assert_close(summed(), without(summed), rtol=1e-6, atol=1e-6)


def test_what_is_left_and_what_is_whole_are_combined() -> None:
    mixed = [trim.magnitude(normal(500), 0.3), normal(500, 1)]
    expected = written(mixed[0]).clone() + 2 * mixed[1]
    torch.testing.assert_close(written(consensus.total(mixed, [1.0, 2.0])), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("elected", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
def test_a_sparse_result_is_what_is_not_zero_of_the_dense_one(
    elected: bool, size: int, index_dtype: torch.dtype
) -> None:
    left = [one for one in some_left(size) if isinstance(one, sieve.Left)]
    merged = sieve.Combination(left, WEIGHTS, Rule(elect=elected, weighted=True, divide="count"))
    whole = merged.dense(torch.full((size,), math.nan))
    indices, values, squared = merged.sparse(index_dtype, lambda count, dtype: torch.empty(count, dtype=dtype))
    assert indices.dtype == index_dtype
    assert torch.equal(indices.long(), whole.nonzero().flatten())
    assert torch.equal(values, whole[indices.long()])
    assert squared == pytest.approx(float(whole.double().square().sum()), rel=1e-12)


def test_nothing_is_written_behind_what_is_asked_for() -> None:
    given: list[torch.Tensor] = []

    def empty(count: int, dtype: torch.dtype) -> torch.Tensor:
        given.append(torch.full((count + 64,), 77, dtype=dtype))
        return given[-1][:count]

    task = trim.random(normal(4999), 0.9, 7, "none")
    assert isinstance(task, sieve.Left)
    merged = sieve.Combination([task], [1.0], Rule())
    merged.sparse(torch.int32, empty)
    assert all(bool((one[-64:] == 77).all()) for one in given)
    out = torch.full((4999 + 64,), 77.0)
    merged.dense(out[:4999])
    assert bool((out[4999:] == 77).all())


@pytest.mark.parametrize("rule", [Rule(scale=1e39), Rule(elect=True, weighted=True, divide="count", scale=1e39)])
def test_no_number_makes_a_result_longer_than_its_memory(rule: Rule) -> None:
    """Zero times infinity is not zero."""
    left = trim.random(normal(5000), 0.1, 7, "none")
    assert isinstance(left, sieve.Left)
    given: list[torch.Tensor] = []

    def empty(count: int, dtype: torch.dtype) -> torch.Tensor:
        given.append(torch.full((count + 64,), 77, dtype=dtype))
        return given[-1][:count]

    indices, _, _ = sieve.Combination([left], [1.0], rule).sparse(torch.int32, empty)
    assert torch.equal(indices.long(), written(left).nonzero().flatten())
    assert all(bool((one[-64:] == 77).all()) for one in given)


@pytest.mark.parametrize("dropped", [0, 3, 10, 11, 50])
def test_zeros_are_never_what_is_left(dropped: int) -> None:
    values = torch.zeros(5000)
    values[1000:1010] = torch.arange(1, 11)
    left = sieve.band(values, room(values), dropped, 100)
    expected = values.clone()
    expected[values > 10 - dropped] = 0
    assert torch.equal(written(left), expected)
    # The ten lie in two groups.
    assert int(left.room.where[:313].count_nonzero()) == 2


def test_what_it_cannot_take_is_left_to_torch() -> None:
    term = product(4, 8, 8)
    assert sieve.takes(term)
    assert not sieve.takes(term._replace(b_OR=term.b_OR.double()))
    assert not sieve.takes(torch.ones(4, 4).t()[::2])
    assert not sieve.takes(torch.empty(0, 4))


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="no instruction set with 3 lanes"):
        _sieve.above(3, b"", 0.0, 0, 0)
    with pytest.raises(TypeError, match="takes 4 arguments"):
        _sieve.most(3)  # type: ignore[call-arg]
