"""From an expression to a plan, by the in-memory snapshot of the registry: no I/O."""

from collections.abc import Collection

from polyad.adapters_store.errors import InvalidInput, NotFound, UnknownModel, WrongBase
from polyad.adapters_store.registry import Snapshot, Version
from polyad.serve.compose.expression import parse
from polyad.serve.compose.plan import Plan


class Resolver:
    """Resolves the `model` of requests for one tenant's adapters over one base model."""

    def __init__(self, snapshot: Snapshot, tenant: str, base_names: Collection[str], fingerprint: str) -> None:
        self._snapshot = snapshot
        self._tenant = tenant
        self._base_names = frozenset(base_names)
        self._fingerprint = fingerprint

    def is_base(self, model: str) -> bool:
        """Whether the name is one that the base model is served under."""
        return model in self._base_names

    def plan(self, model: str) -> Plan:
        """Resolve anything but the base model. Raises UnknownModel, WrongBase."""
        try:
            expression = parse(self._without_base(model))
            version = self._snapshot.resolve(self._tenant, expression.adapter, expression.reference)
        except (InvalidInput, NotFound) as error:
            raise UnknownModel("model", model, f"is not served here ({error})") from error
        self._check_base(version)
        return Plan.single(version)

    def _without_base(self, model: str) -> str:
        # The longest first: a base model's name may hold a colon itself, as `llama:8b`.
        for base in sorted(self._base_names, key=len, reverse=True):
            if model.startswith(f"{base}:"):
                return model.removeprefix(f"{base}:")
        return model

    def _check_base(self, version: Version) -> None:
        if version.base != self._fingerprint:
            raise WrongBase(
                "model",
                f"{version.adapter}@{version.label} was made for the base model {version.base[:12]}, "
                f"this server holds {self._fingerprint[:12]}",
            )
