"""A resolved composition. A request keeps its plan, and so its versions, to its end."""

from dataclasses import dataclass

from polyad.adapters_store.registry import Version


@dataclass(frozen=True, slots=True)
class Plan:
    """The one version that a request runs on; later kinds of composition add terms and weights."""

    version: Version

    @property
    def label(self) -> str:
        """How responses name what answered: the adapter with its version number."""
        return f"{self.version.adapter}@{self.version.label}"
