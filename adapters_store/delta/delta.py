"""The canonical in-memory form of a version."""

from collections.abc import Mapping
from dataclasses import dataclass

from polyad.adapters_store.delta.module_delta import ModuleDelta


@dataclass(frozen=True, eq=False)
class Delta:
    """What a version changes in the base model; keys are module paths as in the Hugging Face model."""

    modules: Mapping[str, ModuleDelta]

    @property
    def rank(self) -> int:
        """The largest rank of any module; 0 if none has a low-rank term."""
        return max((change.low_rank.rank for change in self.modules.values() if change.low_rank), default=0)

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(change.size for change in self.modules.values())
