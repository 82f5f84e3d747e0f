"""What may be done with the logits of S streams: three forms, of which every method of fusion is one.

The logits of stream s are l_s, already divided by the method's temperature; P_s = softmax(l_s), d_t = l_t - l_0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

MAX_CANDIDATES = 64


@dataclass(frozen=True, slots=True)
class Linear:
    """sum_s c_s l_s; with `plausible`, only over the tokens whose P_0 is at least that share of the largest."""

    coefficients: tuple[float, ...]
    temperature: float = 1.0
    plausible: float | None = None


@dataclass(frozen=True, slots=True)
class MeanProbabilities:
    """log sum_s w_s P_s, for weights that are not negative."""

    weights: tuple[float, ...]
    temperature: float = 1.0


@dataclass(frozen=True, slots=True)
class Search:
    """l_0 + sum_t alpha_t d_t, alpha found anew for each token among low, low + step, ..., `count` values.

    With A = KL(fused || P_0), B = KL(P_0 || fused), and a, b the means over the experts of what A and B are for each
    expert itself, dynamic logit fusion (arXiv 2406.15480) minimises (A - a)^2 + (B - b)^2, which differs from the
    paper's sum over the experts by a factor and a constant. As there, one expert at a time: all others have alpha 0,
    and the best expert is kept; of equals the first expert, then the smallest alpha.

    With `rho` all experts may have an alpha: (A - a)^2 + (B - b)^2 + rho |alpha - 1/T|^2 is minimised, one alpha after
    another, SWEEPS times over, from 1/T each. This is not the paper's: two equations alone do not determine T alphas.
    """

    low: float = 0.0
    step: float = 0.1
    count: int = 21
    temperature: float = 1.0
    rho: float | None = None


SWEEPS = 2

Method: TypeAlias = Linear | MeanProbabilities | Search


def static(weights: Sequence[float], temperature: float = 1.0) -> Linear:
    """Product of experts, l_0 + sum_t w_t d_t: the base, then an expert for each weight."""
    return Linear((1 - sum(weights), *weights), temperature)


def mean_log_probabilities(weights: Sequence[float], temperature: float = 1.0) -> Linear:
    """sum_t w_t log P_t, up to a constant: an expert for each weight, and no base."""
    return Linear(tuple(weights), temperature)


def proxy(alpha: float = 1.0, temperature: float = 1.0) -> Linear:
    """Proxy tuning (arXiv 2401.08565), l_0 + alpha (l_+ - l_-): the base, the expert, the anti-expert."""
    return Linear((1.0, alpha, -alpha), temperature)


def contrastive(alpha: float = 0.1, beta: float = 0.5, temperature: float = 1.0) -> Linear:
    """Contrastive decoding (arXiv 2309.09117) of an expert and an amateur: (1 + beta) l_e - beta l_a, over the tokens
    with P_e >= alpha max P_e."""
    return Linear((1 + beta, -beta), temperature, plausible=alpha)
