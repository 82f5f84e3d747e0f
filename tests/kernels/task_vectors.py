"""Task vectors that native passes over them are tried on."""

from collections.abc import Callable, Iterator

import torch

SIZES = [1, 2, 7, 33, 4096, 100_001]


def normal(size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


KINDS: dict[str, Callable[[int], torch.Tensor]] = {
    "normal": normal,
    "equal": lambda size: torch.full((size,), -2.0),
    "few": lambda size: (normal(size) * 3).trunc(),
    "zeros": lambda size: normal(size) * (normal(size, 1) > 1),
    "heavy": lambda size: normal(size) ** 9,
    "tiny": lambda size: normal(size) * 1e-39,  # not normalised
    # Large where a sample of every 64th looks, and only there.
    "misleading": lambda size: normal(size) * (1 + 99 * (torch.arange(size) % 64 == 0)),
}


def places(size: int) -> Iterator[int]:
    yield from sorted({1, min(2, size), (size + 4) // 5, size})


def whole_numbers(size: int) -> list[torch.Tensor]:
    """Four, so that sums of zero come about, and are zero in any order."""
    return [(normal(size, seed) * 2).round() for seed in range(4)]
