"""The one thing that services ask of the engine's host cache."""

from typing import Protocol

from polyad.adapters_store.registry import Version


class Leases(Protocol):
    """Knows which versions running requests use."""

    def leased(self, version: Version) -> bool: ...
