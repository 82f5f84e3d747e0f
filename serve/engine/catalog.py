"""What the engine's faces need to know of the registry, and nothing more."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from polyad.serve.compose import Resolver


@dataclass(frozen=True, slots=True)
class Model:
    """One line of /v1/models: a name to ask for, and what it stands for now."""

    id: str
    root: str
    created: float


class Catalog(Protocol):
    """The names that the request at hand may use."""

    @property
    def resolver(self) -> Resolver: ...

    def models(self) -> Iterable[Model]: ...
