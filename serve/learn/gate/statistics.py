"""Tests that tell a difference from chance. All are one-sided; p is the chance of what was seen, or more, by luck."""

import math
import random
from collections.abc import Sequence
from itertools import product

_EXACT = 14
_DRAWS = 20_000
_TOLERANCE = 1e-12


def better(differences: Sequence[float]) -> float:
    """p that the mean of paired differences is not above zero: a sign-flip permutation test, exact for few pairs."""
    observed = sum(differences)
    if not differences or all(difference == 0 for difference in differences):
        return 1.0
    threshold = observed - _TOLERANCE * max(1.0, abs(observed))
    if len(differences) <= _EXACT:
        flips = product((1, -1), repeat=len(differences))
        hits = sum(sum(s * d for s, d in zip(signs, differences, strict=True)) >= threshold for signs in flips)
        return float(hits / 2 ** len(differences))
    chance = random.Random(len(differences))
    hits = sum(sum(chance.choice((1, -1)) * d for d in differences) >= threshold for _ in range(_DRAWS))
    return (hits + 1) / (_DRAWS + 1)


def mcnemar(lost: int, won: int) -> float:
    """p of losing at least `lost` of the `lost + won` pairs that changed, if each were as likely to be won: exact."""
    changed = lost + won
    return float(sum(math.comb(changed, k) for k in range(lost, changed + 1)) / 2**changed)


def fisher(successes: int, trials: int, other_successes: int, other_trials: int) -> float:
    """p that the first has so few successes, or fewer, if both have the same chance of one: Fisher's exact test."""
    total, hits = trials + other_trials, successes + other_successes
    lowest = max(0, hits - other_trials)
    ways = sum(math.comb(trials, k) * math.comb(other_trials, hits - k) for k in range(lowest, successes + 1))
    return ways / math.comb(total, hits)


def interval(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share; 95 % by default."""
    if not trials:
        return 0.0, 1.0
    share, spread = successes / trials, z * z / trials
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)
