"""The same on a GPU: Triton walks along the vocabulary, torch does the rest on what is left, and nobody waits for it.

Shape suffixes: R rows of the batch, G groups, S streams (of the largest group; others have -1), T experts,
V vocabulary, K candidates, F fields of a record.
"""

from collections.abc import Sequence
from math import log

import torch
import triton

from polyad.kernels.fusion.fuser import CHOSEN, MEASURES, Fused, Group, empty
from polyad.kernels.fusion.method import SWEEPS, Linear, MeanProbabilities, Search
from polyad.kernels.fusion.triton_kernels import combine, statistics, sweep

_BLOCK = 1024
_SWEEP_BLOCK = 128
_FIRST, _NOTHING = len(MEASURES), float("-inf")


def fuse(logits_RV: torch.Tensor, groups: Sequence[Group]) -> Fused:
    """Fuse all groups, from 16 bits or float32, in float32."""
    fused = empty(logits_RV, groups)
    for kind, fill in ((Linear, _linear), (MeanProbabilities, _mean), (Search, _search)):
        of_kind = [index for index, group in enumerate(groups) if isinstance(group.method, kind)]
        if of_kind:
            fill(logits_RV, [groups[index] for index in of_kind], of_kind, fused)
    return fused


class _Table:
    """Groups of one kind as tensors."""

    def __init__(self, logits_RV: torch.Tensor, groups: Sequence[Group]) -> None:
        self.logits_RV = logits_RV
        self.groups = groups
        self.streams = max(len(group.rows) for group in groups)
        padded = [[*group.rows, *[-1] * (self.streams - len(group.rows))] for group in groups]
        self.rows_GS = torch.tensor(padded, dtype=torch.int32, device=logits_RV.device)
        self.scales_G = self.numbers([1 / group.method.temperature for group in groups])

    def numbers(self, values: Sequence[float] | Sequence[Sequence[float]]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.logits_RV.device)

    def padded(self, values: Sequence[Sequence[float]]) -> torch.Tensor:
        return self.numbers([[*row, *[0.0] * (self.streams - len(row))] for row in values])

    def combined(self, weights_GS: torch.Tensor, used_GS: torch.Tensor, least_G: torch.Tensor) -> torch.Tensor:
        vocabulary = self.logits_RV.shape[1]
        out_GV = self.logits_RV.new_empty(len(self.groups), vocabulary, dtype=torch.float32)
        grid = (len(self.groups), triton.cdiv(vocabulary, _BLOCK))
        combine[grid](
            self.logits_RV,
            self.logits_RV.stride(0),
            self.rows_GS,
            weights_GS.contiguous(),
            used_GS.to(torch.int32),
            self.scales_G,
            least_G,
            out_GV,
            vocabulary,
            STREAMS=self.streams,
            V=_BLOCK,
        )
        return out_GV


def _linear(logits_RV: torch.Tensor, groups: Sequence[Group], places: list[int], fused: Fused) -> None:
    table = _Table(logits_RV, groups)
    methods = [group.method for group in groups if isinstance(group.method, Linear)]
    weights_GS = table.padded([method.coefficients for method in methods])
    first_GV = logits_RV[table.rows_GS[:, 0].long()].float()
    below_G = table.numbers([_NOTHING if one.plausible is None else log(one.plausible) for one in methods])
    least_G = first_GV.max(1).values * table.scales_G + below_G
    fused.logits_GV[places] = table.combined(weights_GS, weights_GS != 0, least_G)
    _write_weights(fused, places, weights_GS)


def _mean(logits_RV: torch.Tensor, groups: Sequence[Group], places: list[int], fused: Fused) -> None:
    for place, group in zip(places, groups, strict=True):
        method = group.method
        if isinstance(method, MeanProbabilities):
            logits_SV = logits_RV[list(group.rows)].float() / method.temperature
            logits_SV = logits_SV.masked_fill(logits_SV <= -1e30, _NOTHING)
            weights_S = torch.tensor(method.weights, device=logits_RV.device)
            fused.logits_GV[place] = torch.logsumexp(logits_SV.log_softmax(1) + weights_S.log().unsqueeze(1), 0)
            _write_weights(fused, [place], weights_S.unsqueeze(0))


def _write_weights(fused: Fused, places: list[int], weights_GS: torch.Tensor) -> None:
    fused.records_GF[places, :CHOSEN] = torch.nan
    fused.records_GF[places, _FIRST : _FIRST + weights_GS.shape[1]] = weights_GS


def _search(logits_RV: torch.Tensor, groups: Sequence[Group], places: list[int], fused: Fused) -> None:
    for joint in (False, True):
        chosen = [i for i, one in enumerate(groups) if isinstance(one.method, Search) and _joint(one.method) == joint]
        if chosen:
            table = _Searching(logits_RV, [groups[index] for index in chosen])
            weights_GS, record_G5 = table.jointly() if joint else table.one_at_a_time()
            into = [places[index] for index in chosen]
            everywhere_GS = torch.ones_like(weights_GS)
            least_G = torch.full_like(table.scales_G, _NOTHING)
            fused.logits_GV[into] = table.combined(weights_GS, everywhere_GS, least_G)
            fused.records_GF[into, :_FIRST] = record_G5
            fused.records_GF[into, _FIRST : _FIRST + weights_GS.shape[1]] = weights_GS


def _joint(method: Search) -> bool:
    return method.rho is not None


class _Searching(_Table):
    """The searches of one kind, all groups side by side."""

    def __init__(self, logits_RV: torch.Tensor, groups: Sequence[Group]) -> None:
        super().__init__(logits_RV, groups)
        methods = [group.method for group in groups if isinstance(group.method, Search)]
        self._lows_G = self.numbers([method.low for method in methods])
        self._steps_G = self.numbers([method.step for method in methods])
        self._counts_G = self.numbers([method.count for method in methods])
        self._rhos_G = self.numbers([method.rho or 0 for method in methods])
        self._candidates = triton.next_power_of_2(max(method.count for method in methods))
        self._experts_G = self.numbers([len(group.rows) - 1 for group in groups])
        index_K = torch.arange(self._candidates, device=logits_RV.device)
        self._alphas_GK = self._lows_G.unsqueeze(1) + self._steps_G.unsqueeze(1) * index_K
        self._unknown_GK = index_K >= self._counts_G.unsqueeze(1)
        self._look()

    def one_at_a_time(self) -> tuple[torch.Tensor, torch.Tensor]:
        weights_GS = torch.zeros_like(self._by_base_GS)
        least_G, best_G2 = torch.full_like(self._lows_G, torch.inf), torch.zeros_like(self._target_G2)
        chosen_G, alpha_G = torch.zeros_like(self._lows_G), torch.zeros_like(self._lows_G)
        for expert in range(1, self.streams):
            cost_G, place_G, found_G2 = self._best(expert, weights_GS, weights_GS[:, 0])
            better_G = cost_G < least_G
            least_G = torch.where(better_G, cost_G, least_G)
            best_G2 = torch.where(better_G.unsqueeze(1), found_G2, best_G2)
            chosen_G = torch.where(better_G, expert, chosen_G)
            alpha_G = torch.where(better_G, self._alphas_GK.gather(1, place_G.unsqueeze(1)).squeeze(1), alpha_G)
        weights_GS.scatter_(1, chosen_G.long().unsqueeze(1), alpha_G.unsqueeze(1))
        return self._result(weights_GS, best_G2)

    def jointly(self) -> tuple[torch.Tensor, torch.Tensor]:
        prior_G = 1 / self._experts_G
        weights_GS = torch.where(self.rows_GS >= 0, prior_G.unsqueeze(1), 0)
        weights_GS[:, 0] = 0
        best_G2 = torch.zeros_like(self._target_G2)
        for _ in range(SWEEPS):
            for expert in range(1, self.streams):
                _, place_G, found_G2 = self._best(expert, weights_GS, prior_G)
                here_G = self.rows_GS[:, expert] >= 0
                alpha_G = self._alphas_GK.gather(1, place_G.unsqueeze(1)).squeeze(1)
                weights_GS[:, expert] = torch.where(here_G, alpha_G, 0)
                best_G2 = torch.where(here_G.unsqueeze(1), found_G2, best_G2)
        return self._result(weights_GS, best_G2)

    def _look(self) -> None:
        """What the divergences are for the experts themselves."""
        shape = len(self.groups), self.streams, 5
        found = self.logits_RV.new_zeros(shape, dtype=torch.float32)
        statistics[shape[:2]](
            self.logits_RV,
            self.logits_RV.stride(0),
            self.rows_GS,
            self.scales_G,
            found,
            self.logits_RV.shape[1],
            STREAMS=self.streams,
            V=_BLOCK,
        )
        top_GS, self._widest_GS, total_GS, product_GS, by_base_GS = found.unbind(2)
        self._widest_GS = self._widest_GS.contiguous()
        self._by_base_GS = by_base_GS / total_GS[:, :1]
        log_totals_GS = total_GS.log() + top_GS
        self._log_total_G = log_totals_GS[:, 0]
        here_GS = self.rows_GS >= 0
        here_GS[:, 0] = False
        rise_GS = log_totals_GS - log_totals_GS[:, :1]
        own = (product_GS / total_GS - rise_GS, rise_GS - self._by_base_GS)
        sums = [torch.where(here_GS, one, 0).sum(1) / self._experts_G for one in own]
        self._target_G2 = torch.stack(sums, 1)

    def _best(
        self, expert: int, weights_GS: torch.Tensor, prior_G: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The best candidate of an expert: its cost, its place, its divergences; infinity where there is no expert."""
        found_GK2 = self._divergences(expert, weights_GS)
        cost_GK = ((found_GK2 - self._target_G2.unsqueeze(1)) ** 2).sum(2)
        cost_GK = cost_GK + self._rhos_G.unsqueeze(1) * (self._alphas_GK - prior_G.unsqueeze(1)) ** 2
        gone_GK = self._unknown_GK | (self.rows_GS[:, expert] < 0).unsqueeze(1) | cost_GK.isnan()
        cost_GK = cost_GK.masked_fill(gone_GK, torch.inf)
        cost_G, place_G = cost_GK.min(1)
        # The first of equals, which `min` does not promise.
        place_G = (cost_GK == cost_G.unsqueeze(1)).int().argmax(1)
        return cost_G, place_G, found_GK2[torch.arange(len(place_G), device=place_G.device), place_G]

    def _divergences(self, expert: int, weights_GS: torch.Tensor) -> torch.Tensor:
        sums_G4K = self.logits_RV.new_ones(len(self.groups), 4, self._candidates, dtype=torch.float32)
        sweep[(len(self.groups),)](
            self.logits_RV,
            self.logits_RV.stride(0),
            self.rows_GS,
            weights_GS.contiguous(),
            self.scales_G,
            self._lows_G,
            self._steps_G,
            self._widest_GS,
            sums_G4K,
            self.logits_RV.shape[1],
            expert,
            STREAMS=self.streams,
            K=self._candidates,
            V=_SWEEP_BLOCK,
        )
        total_GK, own_GK, others_GK, top_GK = sums_G4K.unbind(1)
        shift_GK = self._alphas_GK * self._widest_GS[:, expert].unsqueeze(1)
        rise_GK = total_GK.log() + top_GK + shift_GK - self._log_total_G.unsqueeze(1)
        expected_GK = (self._alphas_GK * own_GK + others_GK) / total_GK + shift_GK
        by_others_GS = weights_GS * self._by_base_GS
        by_others_G1 = by_others_GS[:, 1:].sum(1, keepdim=True) - by_others_GS[:, expert : expert + 1]
        by_base_GK = by_others_G1 + self._alphas_GK * self._by_base_GS[:, expert].unsqueeze(1)
        return torch.stack([expected_GK - rise_GK, rise_GK - by_base_GK], 2)

    def _result(self, weights_GS: torch.Tensor, best_G2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weights_GS[:, 0] = 0
        size_G, chosen_G = weights_GS.abs().max(1)
        chosen_G = (weights_GS.abs() == size_G.unsqueeze(1)).int().argmax(1) * (size_G > 0)
        record_G5 = torch.cat([best_G2, self._target_G2, chosen_G.unsqueeze(1).float()], 1)
        weights_GS[:, 0] = 1 - weights_GS.sum(1)
        return weights_GS, record_G5
