"""What an import kept and what it lost."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ModuleReport:
    """`norm` and `error` are Frobenius norms: of the module's change, and of what the adapter lacks of it.

    `kept` is the rank of a low-rank term, or the number of values of a sparse one.
    """

    norm: float
    error: float
    kept: int


@dataclass(frozen=True, kw_only=True)
class Report:
    """`biases` and `modules` were changed and are in the adapter; `ignored` were changed and are not."""

    kind: str
    source: str
    base: str
    method: Mapping[str, float]
    modules: Mapping[str, ModuleReport]
    biases: tuple[str, ...] = ()
    ignored: tuple[str, ...] = field(default=())

    @property
    def relative_error(self) -> float:
        """Of all modules' changes as one vector."""
        return _relative(self.modules.values())

    def by_kind(self) -> dict[str, tuple[int, float]]:
        """By the last part of the modules' paths: how many there are, and their relative error."""
        kinds: dict[str, list[ModuleReport]] = {}
        for module, report in self.modules.items():
            kinds.setdefault(module.rpartition(".")[2], []).append(report)
        return {kind: (len(reports), _relative(reports)) for kind, reports in sorted(kinds.items())}

    def as_json(self) -> dict[str, object]:
        return {
            "kind": self.kind,
            "source": self.source,
            "base": self.base,
            "method": dict(self.method),
            "relative_error": self.relative_error,
            "by_kind": {kind: {"modules": count, "relative_error": e} for kind, (count, e) in self.by_kind().items()},
            "modules": {
                module: {"norm": one.norm, "error": one.error, "relative_error": _relative([one]), "kept": one.kept}
                for module, one in sorted(self.modules.items())
            },
            "biases": sorted(self.biases),
            "ignored": sorted(self.ignored),
        }


def _relative(reports: Iterable[ModuleReport]) -> float:
    pairs = [(one.error, one.norm) for one in reports]
    whole = math.hypot(*(norm for _, norm in pairs))
    return math.hypot(*(error for error, _ in pairs)) / whole if whole else 0.0
