"""What a merge did, module by module."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ModuleReport:
    """`norms` of the inputs' changes and `cosines` between them (pairs in order); `conflict`, the share of elements
    changed by several inputs on which they disagree in sign; `density`, the share of elements that the result changes;
    `error`, the norm of what compression lost."""

    module: str
    norms: Sequence[float]
    cosines: Sequence[float]
    conflict: float
    norm: float
    density: float
    form: str
    rank: int
    error: float
    size: int

    @property
    def relative_error(self) -> float:
        whole = math.hypot(self.norm, self.error)
        return self.error / whole if whole else 0.0


@dataclass(frozen=True, kw_only=True)
class Report:
    """`seconds` is how long it took; everything else is the same for the same recipe."""

    method: str
    variant: str
    inputs: Sequence[str]
    modules: Sequence[ModuleReport]
    warnings: Sequence[str] = ()
    seconds: float = field(default=0.0, compare=False)

    @property
    def size(self) -> int:
        return sum(one.size for one in self.modules)

    @property
    def relative_error(self) -> float:
        """Of all matrices as one."""
        lost = math.sqrt(sum(one.error**2 for one in self.modules))
        whole = math.sqrt(sum(one.norm**2 + one.error**2 for one in self.modules))
        return lost / whole if whole else 0.0

    @property
    def rank(self) -> int:
        return max((one.rank for one in self.modules), default=0)

    def summary(self) -> dict[str, Any]:
        """The report without its modules."""
        count = max(len(self.modules), 1)
        return {
            "method": self.method,
            "variant": self.variant,
            "inputs": list(self.inputs),
            "modules": len(self.modules),
            "rank": self.rank,
            "size": self.size,
            "relative_error": self.relative_error,
            "density": sum(one.density for one in self.modules) / count,
            "conflict": sum(one.conflict for one in self.modules) / count,
            "warnings": list(self.warnings),
            "seconds": self.seconds,
        }

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        modules = [{**asdict(one), "relative_error": one.relative_error} for one in self.modules]
        return {**self.summary(), "by_module": modules}
