"""A resolved composition. A request keeps its plan, and so its versions, to its end."""

import hashlib
from dataclasses import dataclass

from polyad.adapters_store.registry import Version


@dataclass(frozen=True, slots=True)
class Term:
    version: Version
    weight: float


@dataclass(frozen=True, slots=True)
class Plan:
    """A weighted sum of versions, each there once and with a weight other than zero; none is the base model."""

    terms: tuple[Term, ...]

    @classmethod
    def single(cls, version: Version) -> "Plan":
        return cls((Term(version, 1.0),))

    @property
    def versions(self) -> tuple[Version, ...]:
        return tuple(term.version for term in self.terms)

    @property
    def label(self) -> str:
        """How responses name what answered: each adapter with its version number, and its weight unless that is one."""
        return " + ".join(
            f"{term.version.adapter}@{term.version.label}" + (f"*{term.weight!r}" if term.weight != 1 else "")
            for term in self.terms
        )

    @property
    def key(self) -> str:
        text = ";".join(f"{t.version.tenant}:{t.version.digest}*{t.weight!r}" for t in self.terms)
        return hashlib.sha256(text.encode()).hexdigest()
