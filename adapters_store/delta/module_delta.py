"""What a version changes in one linear module."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from polyad.adapters_store.delta.low_rank import LowRank
from polyad.adapters_store.delta.sparse import Sparse
from polyad.adapters_store.errors import InvalidInput


@dataclass(frozen=True, eq=False, kw_only=True)
class ModuleDelta:
    """The change of y = W x + b0, with W of shape [out, in]; None changes nothing.

        dW = diag(row_scale) W + low_rank + sparse + W diag(column_scale)        db = bias

    `row_scale` and `bias` are of shape [out], `column_scale` is of shape [in]. Raises InvalidInput for terms that are
    not of one shape, or not floating.
    """

    low_rank: LowRank | None = None
    sparse: Sparse | None = None
    row_scale: torch.Tensor | None = None
    column_scale: torch.Tensor | None = None
    bias: torch.Tensor | None = None

    def __post_init__(self) -> None:
        for name, vector in self._vectors():
            if vector.dim() != 1 or not vector.is_floating_point() or not len(vector):
                what = f"{vector.dtype} of shape {tuple(vector.shape)}"
                raise InvalidInput(name, what, "a floating vector with one element for each row or column")
        if self.is_low_rank:
            return
        for side, sizes in (("out", self._outs()), ("in", self._ins())):
            if len(set(sizes.values())) > 1:
                raise InvalidInput("module_delta", sizes, f"terms with one number of {side} features")

    @property
    def out_features(self) -> int | None:
        """None where no term tells."""
        return self.low_rank.b.shape[0] if self.low_rank is not None else next(iter(self._outs().values()), None)

    @property
    def in_features(self) -> int | None:
        """None where no term tells."""
        return self.low_rank.a.shape[1] if self.low_rank is not None else next(iter(self._ins().values()), None)

    @property
    def is_low_rank(self) -> bool:
        """Whether it has no other term than the low-rank one."""
        return self.sparse is None and self.row_scale is None and self.column_scale is None and self.bias is None

    @property
    def scales_weight(self) -> bool:
        """Whether dW depends on W."""
        return self.row_scale is not None or self.column_scale is not None

    @property
    def size(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """All tensors, by the names that they have in the file, behind the module's."""
        tensors = dict(self._vectors())
        if self.low_rank is not None:
            tensors |= {"low_rank.a": self.low_rank.a, "low_rank.b": self.low_rank.b}
        if self.sparse is not None:
            tensors |= {"sparse.indices": self.sparse.indices, "sparse.values": self.sparse.values}
        return tensors

    def _vectors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name in ("row_scale", "column_scale", "bias"):
            if (vector := getattr(self, name)) is not None:
                yield name, vector

    def _outs(self) -> dict[str, int]:
        outs = {name: len(vector) for name, vector in self._vectors() if name != "column_scale"}
        if self.low_rank is not None:
            outs["low_rank"] = self.low_rank.b.shape[0]
        if self.sparse is not None:
            outs["sparse"] = self.sparse.shape[0]
        return outs

    def _ins(self) -> dict[str, int]:
        ins = {} if self.column_scale is None else {"column_scale": len(self.column_scale)}
        if self.low_rank is not None:
            ins["low_rank"] = self.low_rank.a.shape[1]
        if self.sparse is not None:
            ins["sparse"] = self.sparse.shape[1]
        return ins
