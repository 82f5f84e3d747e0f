"""From the `model` of a request to a plan, by the in-memory snapshot of the registry: no I/O."""

import copy
from collections.abc import Collection
from functools import partial

from polyad.adapters_store.errors import InvalidInput, NotFound, UnknownModel, WrongBase
from polyad.adapters_store.names import PRODUCTION
from polyad.adapters_store.registry import Snapshot, Version, View
from polyad.serve.compose.bounds import MAX_DEPTH
from polyad.serve.compose.expansion import Expansion
from polyad.serve.compose.expression import FUSE, Expression, Fusion, Reference
from polyad.serve.compose.fusion import recipe
from polyad.serve.compose.merging import MergeDraft, Merges
from polyad.serve.compose.number import number_text
from polyad.serve.compose.options import options_text
from polyad.serve.compose.parser import is_composition, parse, parse_reference
from polyad.serve.compose.plan import FusedStreams, Plan
from polyad.serve.compose.saved import Chain, name_in_chain, names_within

_MAX_VERSIONS = 8


class Resolver:
    """Resolves the `model` of one tenant's requests to what the tenant can name, over one base model.

    `max_versions` bounds the versions of one plan: as many as the engine has slots for. Nothing is kept per request.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        tenant: str,
        base_names: Collection[str],
        fingerprint: str,
        max_versions: int = _MAX_VERSIONS,
        merges: Merges | None = None,
    ) -> None:
        self._snapshot = snapshot
        self._tenant = tenant
        self._base_names = frozenset(base_names)
        # The longest first: a base model's name may hold a colon itself, as `llama:8b`.
        self._prefixes = tuple(f"{name}:" for name in sorted(base_names, key=len, reverse=True))
        self._fingerprint = fingerprint
        self._max_versions = max_versions
        self._merges = merges

    def of(self, tenant: str) -> "Resolver":
        """The same for another tenant's requests."""
        other = copy.copy(self)
        other._tenant = tenant
        return other

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
            reference, names = parse_reference(text), View(self._snapshot, self._tenant)
            if names.find_composition(reference.adapter) is None:
                version = names.resolve(reference.adapter, reference.at)
                self._check(version, "model")
                return Plan.single(version)
        except (InvalidInput, NotFound) as error:
            raise UnknownModel("model", model, f"is not served here ({error})") from error
        return self.resolve(reference, "model")

    def parse(self, text: str, field: str) -> Expression:
        """Read a composition, also behind the base model's name and a colon. Raises InvalidInput, naming `field`."""
        return parse(text, start=self._start(text), field=field)

    def resolve(self, expression: Expression, field: str) -> Plan:
        """The plan of an expression. Errors name `field`.

        Raises UnknownModel for a name in it, InvalidInput for what is too large, Unsupported for what is not served
        yet, Conflict for compositions that contain each other, WrongBase; MissingMerge for a merge to be computed.
        """
        return self._resolve(expression, field, (), self._merges)

    def check(self, expression: Expression, field: str, saved_as: str) -> None:
        """Raise what `resolve` raises, for what is about to be saved by a name; merges need not be computed yet."""
        merges = None if self._merges is None else self._merges.unseen()
        self._resolve(expression, field, (saved_as,), merges)

    def draft(self, expression: Expression, field: str) -> MergeDraft:
        """The merge that an expression is, to be computed whole; raises as `resolve`, also for merges within it."""
        return self._expansion(field, self._merges).draft(expression)

    def _resolve(self, expression: Expression, field: str, chain: Chain, merges: Merges | None) -> Plan:
        whole, inner = self._written_out(expression, field, chain)
        if isinstance(whole, Fusion):
            return self._fused(whole, field, inner, merges)
        return self._sum(expression, field, chain, merges)

    def _expansion(self, field: str, merges: Merges | None) -> Expansion:
        return Expansion(self._snapshot, self._tenant, field, partial(self._check, field=field), merges)

    def _sum(self, expression: Expression, field: str, chain: Chain, merges: Merges | None) -> Plan:
        expansion = self._expansion(field, merges)
        expansion.add(expression, chain)
        return expansion.plan(self._max_versions)

    def _fused(self, fusion: Fusion, field: str, chain: Chain, merges: Merges | None) -> Plan:
        asked = recipe(fusion, field)
        experts = [self._sum(expert, field, chain, merges) for expert in asked.experts]
        if asked.method is None:
            return experts[0]
        labels = (_expert_text(plan, weight) for plan, weight in zip(experts, asked.weights, strict=True))
        label = f"{FUSE}({', '.join(labels)}{options_text(fusion.options)})"
        base = [Plan(())] if asked.has_base else []
        fused = FusedStreams(asked.mode, (*base, *experts), asked.method, label)
        if len(fused.versions) > self._max_versions:
            came = f"{len(fused.versions)} versions"
            raise InvalidInput(field, came, f"at most {self._max_versions} in one composition")
        return Plan((), fused)

    def _written_out(self, expression: Expression, field: str, chain: Chain) -> tuple[Expression, Chain]:
        """What a saved composition's name stands for, and the names that led there."""
        while isinstance(expression, Reference) and expression.at == PRODUCTION and len(chain) < MAX_DEPTH:
            saved = names_within(self._snapshot, self._tenant, chain).find_composition(expression.adapter)
            if saved is None or (name := name_in_chain(saved, self._tenant)) in chain:
                break
            expression, chain = parse(saved.expression, field=field), (*chain, name)
        return expression, chain

    def _start(self, model: str) -> int:
        return next((len(prefix) for prefix in self._prefixes if model.startswith(prefix)), 0)

    def _check(self, version: Version, field: str) -> None:
        if version.quarantined:
            message = f"was turned down by the gate of {version.run}, and is not served"
            raise UnknownModel(field, version.name, message)
        if version.base != self._fingerprint:
            raise WrongBase(
                field,
                f"{version.name} was made for the base model {version.base[:12]}, "
                f"this server holds {self._fingerprint[:12]}",
            )


def _expert_text(plan: Plan, weight: float) -> str:
    if weight == 1:
        return plan.label
    return f"{plan.label if len(plan.terms) == 1 else f'({plan.label})'}*{number_text(weight)}"
