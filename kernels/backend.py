"""Which implementation computes: the one asked for, or the best that works here."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from polyad.kernels.batch import Batches
from polyad.kernels.layer_shape import LayerShape
from polyad.kernels.terms import Terms

logger = logging.getLogger(__name__)

AUTO = "auto"


class BackendUnavailable(ValueError):
    """The implementation that was asked for does not work here."""


class Layer(Protocol):
    """The slots of one layer, as an implementation keeps them."""

    def __init__(self, shape: LayerShape, slots: int) -> None: ...
    @staticmethod
    def pack(shape: LayerShape, slices: Sequence[Terms | None]) -> Any: ...
    def fill(self, slot: int, packed: Any) -> None: ...
    def clear(self, slot: int) -> None: ...
    def add(self, y_TO: torch.Tensor, x_TI: torch.Tensor, bias_O: torch.Tensor | None, batch: Any) -> None: ...


@dataclass(frozen=True)
class Backend:
    name: str
    layer: type[Layer]
    batches: type[Batches]


def _reference(device: torch.device, dtype: torch.dtype) -> Backend:
    from polyad.kernels.reference import ReferenceLayer

    return Backend("reference", ReferenceLayer, Batches)


def _cpu(device: torch.device, dtype: torch.dtype) -> Backend:
    if device.type != "cpu":
        raise BackendUnavailable(f"runs on a CPU, not on {device.type}")
    try:
        from polyad.kernels.cpu import DTYPES, CpuBatches, CpuLayer
    except ImportError as error:
        raise BackendUnavailable(
            f"was not built when polyad was installed, which needs a C++ compiler ({error})"
        ) from error
    if dtype not in DTYPES:
        raise BackendUnavailable(f"computes in {' and '.join(map(str, DTYPES))}, not in {dtype}")
    return Backend("cpu", CpuLayer, CpuBatches)


def _triton(device: torch.device, dtype: torch.dtype) -> Backend:
    if device.type != "cuda":
        raise BackendUnavailable(f"runs on a GPU, not on {device.type}")
    try:
        from polyad.kernels.triton_batch import TritonBatches
        from polyad.kernels.triton_layer import TritonLayer
    except ImportError as error:
        raise BackendUnavailable(f"needs Triton ({error})") from error
    return Backend("triton", TritonLayer, TritonBatches)


_BACKENDS: dict[str, Callable[[torch.device, torch.dtype], Backend]] = {
    "triton": _triton,
    "cpu": _cpu,
    "reference": _reference,
}

NAMES = (AUTO, *_BACKENDS)

# What nobody would expect on a device, so that the log need not say that it is not used.
_ELSEWHERE = {"cpu": ("triton",), "cuda": ("cpu",)}


def select(name: str, device: torch.device, dtype: torch.dtype) -> Backend:
    """The implementation called `name`; with "auto" the first of NAMES that works, and the log says why others do not.

    Raises BackendUnavailable for one that does not work here, or that there is not.
    """
    if name != AUTO:
        if name not in _BACKENDS:
            raise BackendUnavailable(f"kernels: got {name!r}, allowed: {', '.join(NAMES)}")
        try:
            return _BACKENDS[name](device, dtype)
        except BackendUnavailable as error:
            raise BackendUnavailable(f"kernels: {name!r} {error}") from error
    for candidate, build in _BACKENDS.items():
        if candidate in _ELSEWHERE.get(device.type, ()):
            continue
        try:
            return build(device, dtype)
        except BackendUnavailable as error:
            logger.warning("kernels: %r %s", candidate, error)
    raise BackendUnavailable(f"kernels: none of {', '.join(_BACKENDS)} works here")
