"""Arithmetic of low-rank factors on CPU, in native code (csrc/factors.cpp).

Factors are float32, in one piece, on a CPU; `takes` says whether some are. Without a C++ compiler at installation, none
are, and those who ask compute in torch.

Shape suffixes: R rank, N the sum of ranks, I input features, O output features.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

import torch

try:
    from polyad.kernels import _factors
except ImportError:
    LANES = 0
else:
    LANES = max(_factors.supported().values())

# csrc/factors.cpp has the same fields.
_ROW = struct.Struct("qqqd")


class Term(NamedTuple):
    """scale * b a."""

    a_RI: torch.Tensor
    b_OR: torch.Tensor
    scale: float


def takes(*factors: torch.Tensor) -> bool:
    """Whether all of them can be worked on here."""
    return LANES > 0 and all(one.dtype == torch.float32 and one.is_cpu and one.is_contiguous() for one in factors)


def multiply(term: Term, out_OI: torch.Tensor) -> torch.Tensor:
    """scale * b a, into `out_OI`. Each element is summed up rank by rank."""
    a_RI, b_OR, scale = term
    rank, columns = a_RI.shape
    rows = b_OR.shape[0]
    addresses = (a_RI.data_ptr(), b_OR.data_ptr(), rank, rank)
    _factors.multiply(LANES, *addresses, rows, columns, float(scale), out_OI.data_ptr())
    return out_OI


def disagree(terms: Sequence[Term], every: int) -> tuple[int, int]:
    """Of every so many-th row: how many elements have opposite signs in some two terms, and how many are not zero in at
    least two."""
    out_features, in_features = terms[0].b_OR.shape[0], terms[0].a_RI.shape[1]
    return _factors.disagree(LANES, _table(terms), len(terms), every, -(-out_features // every), in_features)


def join(terms: Sequence[Term]) -> tuple[torch.Tensor, torch.Tensor]:
    """Terms side by side, the sum of which is b a: a of shape [N, I], and b of shape [O, N] with the scales in it."""
    n = sum(term.a_RI.shape[0] for term in terms)
    sizes = (terms[0].a_RI.shape[1], terms[0].b_OR.shape[0])
    a_NI, b_ON = torch.empty(n, sizes[0]), torch.empty(sizes[1], n)
    _factors.join(LANES, _table(terms), len(terms), *sizes, a_NI.data_ptr(), b_ON.data_ptr())
    return a_NI, b_ON


def grams(terms: Sequence[Term]) -> tuple[torch.Tensor, torch.Tensor, list[list[float]]]:
    """a aᵀ and bᵀ b of terms side by side, each [N, N], float64, without their scales; and the inner products of each
    term with each.
    """
    n = sum(term.a_RI.shape[0] for term in terms)
    a_NN, b_NN = torch.empty(n, n, dtype=torch.float64), torch.empty(n, n, dtype=torch.float64)
    sizes = (terms[0].a_RI.shape[1], terms[0].b_OR.shape[0])
    products = _factors.grams(LANES, _table(terms), len(terms), *sizes, a_NN.data_ptr(), b_NN.data_ptr())
    return a_NN, b_NN, products


def _table(terms: Sequence[Term]) -> bytes:
    return b"".join(_ROW.pack(a_RI.data_ptr(), b_OR.data_ptr(), a_RI.shape[0], scale) for a_RI, b_OR, scale in terms)
