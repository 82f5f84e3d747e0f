"""The model names of one tenant, as the registry has them."""

from collections.abc import Iterator

from polyad.adapters_store.names import PRODUCTION
from polyad.adapters_store.registry import Registry
from polyad.serve.compose import Resolver
from polyad.serve.engine.catalog import Model

_PAGE = 1000


class RegistryCatalog:
    """Answers the engine's faces from the snapshot."""

    def __init__(self, registry: Registry, resolver: Resolver, tenant: str) -> None:
        self._registry = registry
        self._tenant = tenant
        self.resolver = resolver

    def models(self) -> Iterator[Model]:
        """Every adapter that a plain name reaches, by name, and then every saved composition."""
        yield from self._adapters()
        yield from self._compositions()

    def _adapters(self) -> Iterator[Model]:
        after: str | None = None
        while page := self._registry.snapshot.page(self._tenant, after, _PAGE):
            for adapter in page:
                number = adapter.aliases.get(PRODUCTION)
                if number is not None:
                    yield Model(adapter.name, f"{adapter.name}@v{number}", adapter.created)
            after = page[-1].name

    def _compositions(self) -> Iterator[Model]:
        after: str | None = None
        while page := self._registry.snapshot.compositions(self._tenant, after, _PAGE):
            for composition in page:
                yield Model(composition.name, composition.expression, composition.created)
            after = page[-1].name
