"""The canonical in-memory form of a version."""

from collections.abc import Mapping
from dataclasses import dataclass

from polyad.adapters_store.delta.low_rank import LowRank


@dataclass(frozen=True, eq=False)
class Delta:
    """What a version adds to the base model; keys are module paths as in the Hugging Face model."""

    low_rank: Mapping[str, LowRank]

    @property
    def rank(self) -> int:
        """The largest rank of any module; 0 for an empty delta."""
        return max((term.rank for term in self.low_rank.values()), default=0)

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(term.size for term in self.low_rank.values())
