"""What one tenant's requests can name: what is its own, and what is public."""

from polyad.adapters_store.names import PRODUCTION, PUBLIC, public_name
from polyad.adapters_store.registry.records import Composition, Version
from polyad.adapters_store.registry.snapshot import Snapshot


class View:
    """A plain name is the tenant's own if it has it, and else the public one; `public/name` is always the latter.

    What belongs to others is answered as what does not exist.
    """

    def __init__(self, snapshot: Snapshot, tenant: str) -> None:
        self._snapshot = snapshot
        self._tenant = tenant

    def resolve(self, name: str, reference: str = PRODUCTION) -> Version:
        """Raises what `Snapshot.resolve` raises."""
        return self._snapshot.resolve(*self._found(name), reference)

    def find_composition(self, name: str) -> Composition | None:
        """The saved composition, or None."""
        return self._snapshot.find_composition(*self._found(name))

    def _found(self, name: str) -> tuple[str, str]:
        public = public_name(name)
        if public is not None:
            return PUBLIC, public
        return (PUBLIC, name) if not self._has(self._tenant, name) and self._has(PUBLIC, name) else (self._tenant, name)

    def _has(self, tenant: str, name: str) -> bool:
        snapshot = self._snapshot
        return bool(snapshot.find_adapter(tenant, name) or snapshot.find_composition(tenant, name))
