"""Saved compositions within each other: a chain of their names leads from what a request asks to what is looked up."""

from polyad.adapters_store.names import PUBLIC, public_name
from polyad.adapters_store.registry import Composition, Snapshot, View

Chain = tuple[str, ...]


def names_within(snapshot: Snapshot, tenant: str, chain: Chain) -> View:
    """What names mean in the last composition of a chain, to a tenant."""
    # What is public means the same for everybody: no tenant's own names are in it.
    return View(snapshot, PUBLIC if chain and public_name(chain[-1]) else tenant)


def name_in_chain(composition: Composition, tenant: str) -> str:
    """How a tenant would name it."""
    own = composition.tenant == tenant
    return composition.name if own else f"{composition.tenant}/{composition.name}"
