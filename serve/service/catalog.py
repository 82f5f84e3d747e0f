"""The model names that requests may use, as the registry has them."""

from collections.abc import Iterator

from polyad.adapters_store.names import PRODUCTION, PUBLIC
from polyad.adapters_store.registry import Registry
from polyad.serve.compose import Resolver
from polyad.serve.engine.catalog import Model
from polyad.serve.service.access import current_caller

_PAGE = 1000


class RegistryCatalog:
    """Answers the engine's faces from the snapshot, for whom the current request is."""

    def __init__(self, registry: Registry, resolver: Resolver) -> None:
        self._registry = registry
        self._resolver = resolver

    @property
    def resolver(self) -> Resolver:
        return self._resolver.of(current_caller.get().tenant)

    def models(self) -> Iterator[Model]:
        """Every adapter that a name without a version reaches, and every saved composition: own ones, public ones."""
        tenant = current_caller.get().tenant
        for owner, prefix in {tenant: "", PUBLIC: "" if tenant == PUBLIC else f"{PUBLIC}/"}.items():
            for model in (*self._adapters(owner), *self._compositions(owner)):
                yield Model(prefix + model.id, model.root, model.created)

    def _adapters(self, tenant: str) -> Iterator[Model]:
        after: str | None = None
        while page := self._registry.snapshot.page(tenant, after, _PAGE):
            for adapter in page:
                number = adapter.aliases.get(PRODUCTION)
                if number is not None:
                    yield Model(adapter.name, f"{adapter.name}@v{number}", adapter.created)
            after = page[-1].name

    def _compositions(self, tenant: str) -> Iterator[Model]:
        after: str | None = None
        while page := self._registry.snapshot.compositions(tenant, after, _PAGE):
            for composition in page:
                yield Model(composition.name, composition.expression, composition.created)
            after = page[-1].name
