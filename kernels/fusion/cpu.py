"""The same on CPU: one native call for all groups (csrc/fusion.cpp), from bf16 or float32, in float32.

Shape suffixes: R rows of the batch, V vocabulary, S streams.
"""

from collections.abc import Sequence

import torch

from polyad.kernels import _fusion
from polyad.kernels.fusion.fuser import CHOSEN, MEASURES, Fused, Group, empty
from polyad.kernels.fusion.method import SWEEPS, Linear, MeanProbabilities, Method, Search

DTYPES = (torch.float32, torch.bfloat16)
LANES: int = max(_fusion.supported().values())

# csrc/fusion.cpp has the same names.
_LINEAR, _MEAN_PROBABILITIES, _ONE_AT_A_TIME, _JOINT = range(4)


def fuse(logits_RV: torch.Tensor, groups: Sequence[Group]) -> Fused:
    """Fuse all groups. Raises ValueError for logits of another type, or whose rows are not each in one piece."""
    if logits_RV.dtype not in DTYPES or logits_RV.stride(1) != 1:
        raise ValueError(f"logits: got {logits_RV.dtype} with strides {logits_RV.stride()}, allowed: {DTYPES}, whole")
    fused = empty(logits_RV, groups)
    row_bytes = logits_RV.stride(0) * logits_RV.element_size()
    table: list[list[int]] = []
    held: list[torch.Tensor] = []
    for index, group in enumerate(groups):
        rows_S = torch.tensor([logits_RV.data_ptr() + row * row_bytes for row in group.rows], dtype=torch.int64)
        parameters = torch.tensor(_parameters(group.method, len(group.rows)), dtype=torch.float64)
        held += rows_S, parameters
        record_F = fused.records_GF[index]
        _set_weights(record_F, group.method)
        pointers = [tensor.data_ptr() for tensor in (rows_S, parameters, fused.logits_GV[index], record_F)]
        table.append([_kind(group.method), len(group.rows), *pointers])
    rows = torch.tensor(table, dtype=torch.int64)
    _fusion.fuse(LANES, rows.data_ptr(), len(table), logits_RV.shape[1], logits_RV.dtype == torch.bfloat16)
    return fused


def _kind(method: Method) -> int:
    if isinstance(method, Search):
        return _ONE_AT_A_TIME if method.rho is None else _JOINT
    return _LINEAR if isinstance(method, Linear) else _MEAN_PROBABILITIES


def _parameters(method: Method, streams: int) -> list[float]:
    scale = 1 / method.temperature
    if isinstance(method, Search):
        return [scale, 0, method.low, method.step, method.count, method.rho or 0, SWEEPS, *[0.0] * streams]
    plausible = (method.plausible or 0) if isinstance(method, Linear) else 0
    return [scale, plausible, 0, 0, 0, 0, 0, *weights_of(method)]


def _set_weights(record_F: torch.Tensor, method: Method) -> None:
    if not isinstance(method, Search):
        weights_S = torch.tensor(weights_of(method))
        record_F[:CHOSEN] = torch.nan
        record_F[len(MEASURES) : len(MEASURES) + len(weights_S)] = weights_S


def weights_of(method: Linear | MeanProbabilities) -> tuple[float, ...]:
    """The weight of each stream."""
    return method.coefficients if isinstance(method, Linear) else method.weights
