"""From names to versions: what the engine is asked to run."""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from polyad.adapters_store.registry import Version
from polyad.kernels.fusion.method import Method
from polyad.serve.compose.weights import sum_text


@dataclass(frozen=True, slots=True)
class Term:
    """One version and its weight, which is finite and not zero."""

    version: Version
    weight: float


@dataclass(frozen=True, slots=True)
class FusedStreams:
    """Streams of one text that are combined in their logits, each with a plan of its own: the mechanism of `fuse`."""

    mode: str
    streams: "tuple[Plan, ...]"
    method: Method
    label: str

    @property
    def versions(self) -> tuple[Version, ...]:
        """Those of all streams, each once."""
        return tuple(dict.fromkeys(version for stream in self.streams for version in stream.versions))

    @property
    def key(self) -> str:
        described = "\n".join([repr(self.method), *(stream.key if stream.terms else "" for stream in self.streams)])
        return f"fuse:{sha256(described.encode()).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Plan:
    """A resolved composition. A request keeps its plan, and so its versions, to its end.

    Versions are distinct and in the order of their labels. No term at all is the base model, explicitly asked for. With
    `fusion` there are no terms, and the versions are its streams'.
    """

    terms: tuple[Term, ...]
    fusion: FusedStreams | None = None

    @classmethod
    def single(cls, version: Version) -> "Plan":
        """The version as it is: weight 1."""
        return cls((Term(version, 1.0),))

    @classmethod
    def of(cls, weights: Iterable[tuple[Version, float]]) -> "Plan":
        """A blend of distinct versions."""
        ordered = sorted(weights, key=lambda pair: (pair[0].tenant, pair[0].adapter, pair[0].number))
        return cls(tuple(Term(version, weight) for version, weight in ordered))

    @property
    def versions(self) -> tuple[Version, ...]:
        if self.fusion is not None:
            return self.fusion.versions
        return tuple(term.version for term in self.terms)

    @property
    def label(self) -> str:
        """How responses name what answered: `support@v3`, `support@v3*0.7 + tone@v1*0.3`."""
        if self.fusion is not None:
            return self.fusion.label
        return sum_text((term.version.name, term.weight) for term in self.terms)

    @property
    def key(self) -> str:
        """What caches may be shared by: equal for the same bytes of one tenant at the same weights, and only then.

        No name and no alias is in it; no tenant's key is ever another's.
        """
        if self.fusion is not None:
            return self.fusion.key
        if len(self.terms) == 1 and self.terms[0].weight == 1:
            return _bytes_of(self.terms[0].version)
        weighted = sorted(f"{_bytes_of(term.version)}*{term.weight.hex()}" for term in self.terms)
        # A tenant's name holds no colon, so that this is no single version's key.
        return f"blend:{sha256(chr(10).join(weighted).encode()).hexdigest()}"


def _bytes_of(version: Version) -> str:
    return f"{version.tenant}/{version.digest}"
