import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyad.adapters_store.merge.survey import whole_model_threshold
from polyad.adapters_store.merge.threshold import kth_largest, row_top_mask, top_mask


@settings(max_examples=60, deadline=None)
@given(
    size=st.sampled_from([1, 2, 7, 20_000, 50_001]),
    place=st.floats(0, 1),
    kind=st.sampled_from(["normal", "equal", "few", "zeros", "sorted", "heavy"]),
)
def test_it_is_what_sorting_gives(size: int, place: float, kind: str) -> None:
    values = made(kind, size)
    k = min(int(place * size) + 1, size)
    assert kth_largest(values, k) == float(values.sort(descending=True).values[k - 1])
    mask = top_mask(values, k)
    # the first of equal ones: what a stable sort keeps
    kept = values.sort(descending=True, stable=True).indices[:k]
    expected = torch.zeros(size, dtype=torch.bool)
    expected[kept] = True
    assert torch.equal(mask, expected)


def made(kind: str, size: int) -> torch.Tensor:
    values = torch.randn(size, generator=torch.Generator().manual_seed(size)).abs()
    return {
        "normal": values,
        "equal": torch.ones(size),
        "few": (values * 3).floor(),
        "zeros": values * (values > 1),
        "sorted": values.sort().values,
        "heavy": values**9,
    }[kind]


@pytest.mark.parametrize("k", [0, 1, 3, 9, 10])
def test_rows_are_selected_one_by_one(k: int) -> None:
    values = (torch.randn(40, 10, generator=torch.Generator().manual_seed(0)).abs() * 2).floor()
    mask = row_top_mask(values, k)
    for row, kept in zip(values, mask, strict=True):
        assert torch.equal(kept, top_mask(row, k))


@pytest.mark.parametrize("share", [1e-9, 0.01, 0.5, 1.0])
def test_a_whole_model_is_selected_from_as_one_tensor(share: float) -> None:
    generator = torch.Generator().manual_seed(1)
    tensors = [torch.randn(size, generator=generator) * scale for size, scale in ((50, 1), (3000, 0.1), (1, 9))]
    tensors.append(torch.zeros(100))
    flat = torch.cat([tensor.flatten() for tensor in tensors]).abs()
    k = max(int(share * len(flat)), 1)
    assert whole_model_threshold(lambda: iter(tensors), share) == float(flat.sort(descending=True).values[k - 1])
