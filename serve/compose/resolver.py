"""From the `model` of a request to a plan, by the in-memory snapshot of the registry: no I/O."""

from collections.abc import Collection

from polyad.adapters_store.errors import InvalidInput, NotFound, UnknownModel, WrongBase
from polyad.adapters_store.registry import Snapshot, Version
from polyad.serve.compose.expansion import Expansion
from polyad.serve.compose.expression import Expression
from polyad.serve.compose.parser import is_composition, parse, parse_reference
from polyad.serve.compose.plan import Plan

_MAX_VERSIONS = 8


class Resolver:
    """Resolves the `model` of requests for one tenant's adapters and compositions over one base model.

    `max_versions` bounds the versions of one plan: as many as the engine has slots for. Nothing is kept per request.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        tenant: str,
        base_names: Collection[str],
        fingerprint: str,
        max_versions: int = _MAX_VERSIONS,
    ) -> None:
        self._snapshot = snapshot
        self._tenant = tenant
        self._base_names = frozenset(base_names)
        # The longest first: a base model's name may hold a colon itself, as `llama:8b`.
        self._prefixes = tuple(f"{name}:" for name in sorted(base_names, key=len, reverse=True))
        self._fingerprint = fingerprint
        self._max_versions = max_versions

    def is_base(self, model: str) -> bool:
        """Whether the name is one that the base model is served under."""
        return model in self._base_names

    def plan(self, model: str) -> Plan:
        """Resolve anything but the base model.

        Raises UnknownModel, which names the name, WrongBase, and what `parse` and `resolve` raise for compositions.
        """
        text = model[self._start(model) :]
        if is_composition(text):
            return self.resolve(self.parse(model, "model"), "model")
        try:
            reference = parse_reference(text)
            if self._snapshot.find_composition(self._tenant, reference.adapter) is None:
                version = self._snapshot.resolve(self._tenant, reference.adapter, reference.at)
                self._check(version, "model")
                return Plan.single(version)
        except (InvalidInput, NotFound) as error:
            raise UnknownModel("model", model, f"is not served here ({error})") from error
        return self.resolve(reference, "model")

    def parse(self, text: str, field: str) -> Expression:
        """Read a composition, also behind the base model's name and a colon. Raises InvalidInput, naming `field`."""
        return parse(text, start=self._start(text), field=field)

    def resolve(self, expression: Expression, field: str, saved_as: str | None = None) -> Plan:
        """The plan of an expression, or of what is about to be saved by a name. Errors name `field`.

        Raises UnknownModel for a name in it, InvalidInput for what is too large, Unsupported for what is not served
        yet, Conflict for compositions that contain each other, WrongBase.
        """
        expansion = Expansion(self._snapshot, self._tenant, field)
        expansion.add(expression, () if saved_as is None else (saved_as,))
        plan = expansion.plan(self._max_versions)
        for version in plan.versions:
            self._check(version, field)
        return plan

    def _start(self, model: str) -> int:
        return next((len(prefix) for prefix in self._prefixes if model.startswith(prefix)), 0)

    def _check(self, version: Version, field: str) -> None:
        if version.quarantined:
            message = f"was turned down by the gate of {version.run}, and is not served"
            raise UnknownModel(field, f"{version.adapter}@{version.label}", message)
        if version.base != self._fingerprint:
            raise WrongBase(
                field,
                f"{version.adapter}@{version.label} was made for the base model {version.base[:12]}, "
                f"this server holds {self._fingerprint[:12]}",
            )
