"""The adapters that metrics name: the busiest ones, as many as there are labels; all others are one."""

from collections.abc import Callable

OTHER = "other"


class Busiest:
    """Counts requests in bounded memory (space-saving: Metwally et al., ICDT 2005).

    A name takes over the label of the least busy one once it was asked for twice as often, so that labels do not
    flicker; `forget` is told whose label ended.
    """

    def __init__(self, labels: int, forget: Callable[[str], None]) -> None:
        self._labels = labels
        self._forget = forget
        self._named: dict[str, int] = {}
        self._rest: dict[str, int] = {}

    def label(self, name: str) -> str:
        """One more request for the name: the label that it has now."""
        if name in self._named:
            self._named[name] += 1
            return name
        if len(self._named) < self._labels:
            self._named[name] = 1
            return name
        count = self._count(name)
        if not self._named or count <= 2 * min(self._named.values()):
            return OTHER
        least = min(self._named, key=self._named.__getitem__)
        self._rest[least] = self._named.pop(least)
        self._forget(least)
        self._named[name] = self._rest.pop(name)
        return name

    def current(self, name: str) -> str:
        """The label of the name, without another request for it."""
        return name if name in self._named else OTHER

    def _count(self, name: str) -> int:
        if name not in self._rest and len(self._rest) > 4 * self._labels:
            # Whoever comes takes over the count of the least: it is over-estimated, never forgotten.
            least = min(self._rest, key=self._rest.__getitem__)
            self._rest[name] = self._rest.pop(least)
        self._rest[name] = self._rest.get(name, 0) + 1
        return self._rest[name]
