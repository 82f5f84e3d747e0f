"""Native passes over task vectors, in every instruction set of this machine, against sorting and plain torch."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from polyad.adapters_store.merge import consensus
from polyad.adapters_store.merge.compress import compress_dense
from polyad.adapters_store.merge.task import written
from polyad.kernels import _merging, merging
from tests.kernels.task_vectors import KINDS, SIZES, normal, places, whole_numbers


@pytest.fixture(params=[*_merging.supported()], autouse=True)
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "LANES", _merging.supported()[request.param])


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], torch.Tensor]], torch.Tensor]:
    """What torch gives where there is no native code."""

    def computed(function: Callable[[], torch.Tensor]) -> torch.Tensor:
        with monkeypatch.context() as patched:
            patched.setattr(merging, "LANES", 0)
            return function()

    return computed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_kth_largest_is_what_sorting_gives(kind: str, size: int) -> None:
    values = KINDS[kind](size)
    ordered = values.abs().sort(descending=True).values
    for k in places(size):
        assert merging.kth_largest(values, k) == float(ordered[k - 1])


@pytest.mark.parametrize("rule", [consensus.WEIGHTED, consensus.COUNTED, consensus.PAPER])
@pytest.mark.parametrize("frequency", [False, True])
@pytest.mark.parametrize("divide", ["weights", "count", "none"])
@pytest.mark.parametrize("size", SIZES)
def test_election_is_torchs(
    without: Callable[..., torch.Tensor],
    rule: consensus.Election,
    frequency: bool,
    divide: merging.Divide,
    size: int,
) -> None:
    election = consensus.Election(rule.weighted, divide, frequency, rule.zero)

    def agreed() -> torch.Tensor:
        return written(consensus.agreeing(whole_numbers(size), [1.0, 0.5, 2.0, -0.25], election, 1.5))

    torch.testing.assert_close(agreed(), without(agreed), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_the_sum_is_torchs(without: Callable[..., torch.Tensor], size: int) -> None:
    def summed() -> torch.Tensor:
        return written(consensus.total(whole_numbers(size), [1.0, 0.5, 2.0, -0.25], divisor=3.0, scale=0.5))

    torch.testing.assert_close(summed(), without(summed), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_the_sum_of_squares_is_exact(size: int) -> None:
    values = normal(size)
    assert merging.squared(values) == pytest.approx(float(values.double().square().sum()), rel=1e-13)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wide", [False, True])
def test_places_of_what_is_not_zero(kind: str, wide: bool) -> None:
    values = KINDS[kind](5000)
    found = merging.count_nonzero(values)
    indices, kept = torch.empty(found, dtype=torch.int64 if wide else torch.int32), torch.empty(found)
    merging.gather(values, indices, kept)
    assert torch.equal(indices.long(), values.nonzero().flatten())
    assert torch.equal(kept, values[indices.long()])
    assert found == int(torch.count_nonzero(values))


@pytest.mark.parametrize("count", [0, 5, 2**21, 2**22 + 3])
def test_new_memory_can_be_written(count: int) -> None:
    memory = merging.empty(count, torch.int32)
    assert memory.dtype == torch.int32
    memory.copy_(torch.arange(count))
    assert torch.equal(memory, torch.arange(count, dtype=torch.int32))


def test_large_pages_are_asked_for_where_there_are_some_and_one_page_is_whole() -> None:
    memory = torch.empty(2**22)
    there_are = Path("/sys/kernel/mm/transparent_hugepage").exists()
    assert _merging.large_pages(memory.data_ptr(), memory.nbytes) == there_are
    assert not _merging.large_pages(memory.data_ptr() + 8, 64)


def test_a_matrix_of_zeros_has_no_sparse_form() -> None:
    assert compress_dense(torch.zeros(3, 4), None).sparse is None


def test_what_it_cannot_take_is_left_to_torch() -> None:
    whole = normal(64).view(8, 8)
    assert merging.takes(whole, whole)
    assert not merging.takes(whole.t())
    assert not merging.takes(whole, whole.double())


def test_lanes_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="no instruction set with 3 lanes"):
        _merging.count(3, 0, 0)
    with pytest.raises(TypeError, match="takes 3 arguments"):
        _merging.count(3, 0)  # type: ignore[call-arg]
