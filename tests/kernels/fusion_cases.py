"""Logits for fusion, and what their fusion must be: written down anew, in float64, without a line of kernels/fusion."""

from collections.abc import Callable

import torch

from polyad.kernels.fusion.fuser import Group
from polyad.kernels.fusion.method import Method

Fuse = Callable[[torch.Tensor, list[Group]], object]

INFINITE = float("inf")


def streams(count: int, vocabulary: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A base and experts that shift it, each by its own amount, so that no two candidates of a search are as good."""
    random = torch.Generator().manual_seed(seed)
    base_V = 3 * torch.randn(vocabulary, generator=random, dtype=torch.float64)
    shifts = torch.randn(count - 1, vocabulary, generator=random, dtype=torch.float64)
    sizes = torch.linspace(0.4, 1.6, count - 1, dtype=torch.float64).unsqueeze(1)
    return torch.cat([base_V.unsqueeze(0), base_V + sizes * shifts]).to(dtype)


def kl(first_V: torch.Tensor, second_V: torch.Tensor) -> float:
    """KL(first || second) of two rows of logits, in float64, over what neither masks."""
    kept = (first_V > -INFINITE) & (second_V > -INFINITE)
    p, q = (row[kept].double().log_softmax(0) for row in (first_V, second_V))
    return float((p.exp() * (p - q)).sum())


def published_search(logits_SV: torch.Tensor, candidates: list[float]) -> tuple[int, float]:
    """arXiv 2406.15480's search as its Algorithm 1 says it: the sum over the experts, one expert at a time, first of
    equals. The expert, counted from 1, and its alpha."""
    base_V = logits_SV[0].double()
    experts = [row.double() for row in logits_SV[1:]]
    least, found = INFINITE, (0, 0.0)
    for index, expert_V in enumerate(experts, 1):
        for alpha in candidates:
            fused_V = base_V + alpha * (expert_V - base_V)
            away = sum(
                (kl(fused_V, base_V) - kl(one, base_V)) ** 2 + (kl(base_V, fused_V) - kl(base_V, one)) ** 2
                for one in experts
            )
            if away < least:
                least, found = away, (index, alpha)
    return found


def close(found_V: torch.Tensor, wanted_V: torch.Tensor, tolerance: float) -> None:
    """Equal distributions, masks included."""
    assert not found_V.isnan().any()
    assert torch.equal(found_V == -INFINITE, wanted_V == -INFINITE)
    kept = wanted_V > -INFINITE
    found, wanted = found_V[kept].double().log_softmax(0), wanted_V[kept].double().log_softmax(0)
    assert float((found - wanted).abs().max()) < tolerance


def whole(logits_SV: torch.Tensor, method: Method) -> list[Group]:
    """All rows as one group."""
    return [Group(tuple(range(len(logits_SV))), method)]
