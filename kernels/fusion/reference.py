"""Fusion in plain torch, one group and one candidate after another: what other implementations are held against.

Shape suffixes: R rows of the batch, S streams, T experts, V vocabulary, F fields of a record.
"""

from collections.abc import Sequence
from math import log

import torch

from polyad.kernels.fusion.fuser import MASKED, MEASURES, Fused, Group, empty
from polyad.kernels.fusion.method import SWEEPS, Linear, MeanProbabilities, Search

_NOTHING = float("-inf")


def fuse(logits_RV: torch.Tensor, groups: Sequence[Group]) -> Fused:
    """Fuse all groups; in float64 if the logits are, else in float32."""
    fused = empty(logits_RV, groups)
    wide = torch.promote_types(logits_RV.dtype, torch.float32)
    if wide != torch.float32:
        fused = Fused(fused.logits_GV.to(wide), fused.records_GF.to(wide))
    for index, group in enumerate(groups):
        logits_SV = logits_RV[list(group.rows)].to(wide) / group.method.temperature
        fused_V, record_F = _fused(logits_SV, group.method)
        fused.logits_GV[index] = fused_V
        fused.records_GF[index, : len(record_F)] = record_F
    return fused


def _fused(logits_SV: torch.Tensor, method: Linear | MeanProbabilities | Search) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(method, Search):
        return _Searching(logits_SV, method).best()
    weights = method.coefficients if isinstance(method, Linear) else method.weights
    record_F = logits_SV.new_tensor([*[float("nan")] * (len(MEASURES) - 1), 0, *weights])
    weights_S1 = logits_SV.new_tensor(weights).unsqueeze(1)
    if isinstance(method, MeanProbabilities):
        masked_SV = logits_SV <= MASKED
        logprobs_SV = logits_SV.masked_fill(masked_SV, _NOTHING).log_softmax(1)
        return torch.logsumexp(logprobs_SV + weights_S1.log(), 0), record_F
    masked_V = (logits_SV[weights_S1.squeeze(1) != 0] <= MASKED).any(0)
    if method.plausible is not None:
        masked_V |= logits_SV[0] < logits_SV[0].max() + log(method.plausible)
    sum_V = (weights_S1 * logits_SV.masked_fill(masked_V, 0)).sum(0)
    return sum_V.masked_fill(masked_V, _NOTHING), record_F


class _Searching:
    """The search for the weights of one group's experts."""

    def __init__(self, logits_SV: torch.Tensor, method: Search) -> None:
        self._method = method
        self._masked_V = (logits_SV <= MASKED).any(0)
        kept_SV = logits_SV.masked_fill(self._masked_V, 0)
        self._base_V = kept_SV[0].masked_fill(self._masked_V, _NOTHING).log_softmax(0)
        self._differences_TV = kept_SV[1:] - kept_SV[0]
        self._experts = len(logits_SV) - 1
        own_T2 = torch.stack([self._divergences(row) for row in torch.eye(self._experts).to(logits_SV)])
        self._targets_2 = own_T2.mean(0)

    def best(self) -> tuple[torch.Tensor, torch.Tensor]:
        weights_T = self._joint() if self._method.rho is not None else self._one_at_a_time()
        chosen = 1 + int(weights_T.abs().argmax()) if bool(weights_T.any()) else 0
        measures = [*self._divergences(weights_T), *self._targets_2, weights_T.new_tensor(chosen)]
        record_F = torch.cat([torch.stack(measures), 1 - weights_T.sum(0, keepdim=True), weights_T])
        return self._fused(weights_T), record_F

    def _candidates(self) -> list[float]:
        return [self._method.low + self._method.step * index for index in range(self._method.count)]

    def _one_at_a_time(self) -> torch.Tensor:
        least, best_T = float("inf"), self._differences_TV.new_zeros(self._experts)
        for expert in range(self._experts):
            for alpha in self._candidates():
                weights_T = self._differences_TV.new_zeros(self._experts)
                weights_T[expert] = alpha
                if (distance := float(self._distance(weights_T))) < least:
                    least, best_T = distance, weights_T
        return best_T

    def _joint(self) -> torch.Tensor:
        prior_T = self._differences_TV.new_full((self._experts,), 1 / self._experts)
        best_T = prior_T
        for expert in range(self._experts * SWEEPS):
            least = float("inf")
            for alpha in self._candidates():
                weights_T = best_T.clone()
                weights_T[expert % self._experts] = alpha
                penalty = (self._method.rho or 0) * float(((weights_T - prior_T) ** 2).sum())
                if (cost := float(self._distance(weights_T)) + penalty) < least:
                    least, found_T = cost, weights_T
            best_T = found_T
        return best_T

    def _distance(self, weights_T: torch.Tensor) -> torch.Tensor:
        return ((self._divergences(weights_T) - self._targets_2) ** 2).sum()

    def _fused(self, weights_T: torch.Tensor) -> torch.Tensor:
        return self._base_V + weights_T @ self._differences_TV

    def _divergences(self, weights_T: torch.Tensor) -> torch.Tensor:
        """KL(fused || base) and KL(base || fused)."""
        fused_V = self._fused(weights_T).log_softmax(0)[~self._masked_V]
        base_V = self._base_V[~self._masked_V]
        rise_V = fused_V - base_V
        return torch.stack([(fused_V.exp() * rise_V).sum(), -(base_V.exp() * rise_V).sum()])
