"""Saving expressions by a name."""

import copy
from collections.abc import Collection

from polyad.adapters_store.errors import InvalidInput, InvalidName
from polyad.adapters_store.names import check_name
from polyad.adapters_store.registry import UNSET, Composition, Registry, Unset
from polyad.serve.compose import Expression, Resolver, from_json


class CompositionService:
    """One tenant's saved compositions. They are kept in canonical form; the names in them stay names."""

    def __init__(self, registry: Registry, resolver: Resolver, tenant: str, reserved: Collection[str] = ()) -> None:
        self._registry = registry
        self._resolver = resolver
        self._tenant = tenant
        self._reserved = frozenset(reserved)

    def of(self, tenant: str) -> "CompositionService":
        """The same for another tenant's compositions."""
        other = copy.copy(self)
        other._tenant, other._resolver = tenant, self._resolver.of(tenant)
        return other

    def read(self, value: object, field: str) -> Expression:
        """An expression from its text or its JSON form. Raises InvalidInput, naming the field or the place in it."""
        return self._resolver.parse(value, field) if isinstance(value, str) else from_json(value, field)

    def model_text(self, model: object, composition: object) -> str:
        """What `model` alone would say for a request that brings a composition beside it, or in its place.

        Raises InvalidInput, also for a `model` that is neither absent nor a name of the base model.
        """
        absent = model is None or model == ""
        if not absent and not (isinstance(model, str) and self._resolver.is_base(model)):
            came = model if isinstance(model, str) else type(model).__name__
            raise InvalidInput("model", came, "the base model's name, or nothing, where `composition` is given")
        return str(self.read(composition, "composition"))

    async def save(
        self, name: str, expression: Expression, if_current: Expression | None | Unset = UNSET
    ) -> Composition:
        """Let a name stand for an expression, which can be served now.

        `if_current` makes it a compare-and-set: None means that the name must stand for nothing yet.
        Raises InvalidName, what `Resolver.check` raises, CompositionChanged, Conflict, RegistryUnavailable.
        """
        check_name("name", name)
        if name in self._reserved:
            raise InvalidName("name", name, "any name but the base model's")
        self._resolver.check(expression, "expression", saved_as=name)
        expected = if_current if isinstance(if_current, Unset) or if_current is None else str(if_current)
        return await self._registry.set_composition(self._tenant, name, str(expression), expected)

    def composition(self, name: str) -> Composition:
        """Raises UnknownComposition."""
        return self._registry.snapshot.composition(self._tenant, name)

    def page(self, after: str | None, limit: int) -> list[Composition]:
        """Saved compositions by name, behind the cursor."""
        return self._registry.snapshot.compositions(self._tenant, after, limit)

    async def delete(self, name: str) -> None:
        """Forget a name: new requests for it are refused. Raises UnknownComposition, RegistryUnavailable."""
        await self._registry.delete_composition(self._tenant, name)
