"""How the change of a whole matrix becomes one that can be served beside others.

Shape suffixes: O output features, I input features, R rank.
"""

from dataclasses import dataclass

import torch

from polyad.adapters_store.delta import LowRank, Sparse
from polyad.adapters_store.delta.recompression import kept_rank
from polyad.adapters_store.delta.sparse import index_dtype
from polyad.adapters_store.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Method:
    """One of three: the best low-rank matrix of `rank`, or of the rank that keeps a share `energy` of the squared norm,
    or the largest values, a share `density` of them. Raises InvalidInput unless exactly one is given and allowed."""

    rank: int | None = None
    energy: float | None = None
    density: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if len(given) != 1:
            raise InvalidInput("method", given, "one of rank, energy and density")
        if self.rank is not None and self.rank < 1:
            raise InvalidInput("rank", self.rank, "a positive integer")
        for name in ("energy", "density"):
            share = getattr(self, name)
            if share is not None and not 0 < share <= 1:
                raise InvalidInput(name, share, "a share, above 0 and at most 1")

    @property
    def is_sparse(self) -> bool:
        return self.density is not None

    def low_rank(self, change_OI: torch.Tensor) -> LowRank:
        """The best there is (Eckart and Young), in float32.

        From the eigenvectors of the smaller of D Dᵀ and Dᵀ D: with U the first ones, Uᵀ U = 1, it is U Uᵀ D. That costs
        a fraction of a decomposition of D.
        """
        wide = change_OI.shape[0] <= change_OI.shape[1]
        d_SL = (change_OI if wide else change_OI.t()).double()
        squares, vectors = torch.linalg.eigh(d_SL @ d_SL.t())
        singular = squares.flip(0).clamp(min=0).sqrt()
        kept = kept_rank(singular, rank=self.rank, energy=self.energy)
        root_R = singular[:kept].sqrt()
        u_SR = vectors.flip(1)[:, :kept]
        # a value of zero has a row of zeros
        left, right = u_SR * root_R, (u_SR.t() @ d_SL) / torch.where(root_R > 0, root_R, 1)[:, None]
        a, b = (right, left) if wide else (left.t(), right.t())
        return LowRank(a.float().contiguous(), b.float().contiguous(), 1.0)

    def sparse(self, change_OI: torch.Tensor) -> Sparse:
        """The values of largest magnitude at their places, in float32; at least one, and none that is zero."""
        flat = change_OI.flatten()
        count = max(round((self.density or 0) * len(flat)), 1)
        indices = flat.abs().topk(count).indices.sort().values
        indices = indices[flat[indices] != 0]
        shape = (change_OI.shape[0], change_OI.shape[1])
        return Sparse(indices.to(index_dtype(shape)), flat[indices].float(), shape)
