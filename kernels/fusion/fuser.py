"""The groups of a batch and what becomes of them, and which implementation computes it.

Shape suffixes: R rows of the batch, V vocabulary, G groups, F fields of a record.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from polyad.kernels.fusion.method import Method

logger = logging.getLogger(__name__)

# From here down a logit is a mask's, not the model's: such a token is never sampled, whatever the other streams say.
MASKED = -1e30

# The fields of a record before the weights of the streams.
MEASURES = KL_FROM_BASE, KL_TO_BASE, TARGET_FROM, TARGET_TO, CHOSEN = range(5)


@dataclass(frozen=True, slots=True)
class Group:
    """The rows of one text's streams: base first where the method has one."""

    rows: tuple[int, ...]
    method: Method


@dataclass(frozen=True, eq=False)
class Fused:
    """`logits_GV` in float32, not normalised, and what was found on the way.

    A record of `records_GF` holds A, B, a, b of a search (NaN for other methods), the expert that was chosen, counted
    from 1 (0 if none was), and the weight of each stream, with zeros behind.
    """

    logits_GV: torch.Tensor
    records_GF: torch.Tensor


class Fuser(Protocol):
    """Fuses all groups of a batch in one call. A token that is masked in a stream of a group is masked in its result;
    for a mean of probabilities, only if it is masked in all."""

    def __call__(self, logits_RV: torch.Tensor, groups: Sequence[Group]) -> Fused: ...


def empty(logits_RV: torch.Tensor, groups: Sequence[Group]) -> Fused:
    """Room for what becomes of the groups."""
    streams = max((len(group.rows) for group in groups), default=0)
    shape = len(groups), len(MEASURES) + streams
    return Fused(
        logits_RV.new_empty(len(groups), logits_RV.shape[1], dtype=torch.float32),
        logits_RV.new_zeros(shape, dtype=torch.float32),
    )


def select_fuser(backend: str) -> Fuser:
    """The implementation that belongs to one of the backends of kernels/backend.py, which says whether it works."""
    if backend == "cpu":
        try:
            from polyad.kernels.fusion.cpu import fuse as fuse_on_cpu
        except ImportError as error:
            logger.warning("kernels: fusion was not built when polyad was installed, computing in torch (%s)", error)
        else:
            return fuse_on_cpu
    if backend == "triton":
        from polyad.kernels.fusion.triton_fuser import fuse as fuse_on_gpu

        return fuse_on_gpu
    from polyad.kernels.fusion.reference import fuse as fuse_in_torch

    return fuse_in_torch
