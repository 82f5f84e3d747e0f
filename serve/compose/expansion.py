"""One composition on its way to a plan: every name in it becomes the version that it means now."""

from collections.abc import Callable
from decimal import Decimal

from polyad.adapters_store.errors import Conflict, InvalidInput, NotFound, UnknownModel, Unsupported
from polyad.adapters_store.names import PRODUCTION
from polyad.adapters_store.registry import Composition, Snapshot, Version
from polyad.serve.compose.bounds import MAX_DEPTH, MAX_TERMS, MAX_WEIGHT, WEIGHT_RULE
from polyad.serve.compose.expression import Blend, Expression, Fusion, Merge, Reference
from polyad.serve.compose.merging import MergeDraft, Merges
from polyad.serve.compose.parser import parse
from polyad.serve.compose.plan import Plan
from polyad.serve.compose.saved import Chain, name_in_chain, names_within
from polyad.serve.compose.weights import ONE, ExactSum, exact, product

# Saved compositions of saved compositions: what a few names stand for may be large.
_MAX_NAMES = 256


class Expansion:
    """Adds up the versions of an expression, saved compositions written out. Errors name `field`."""

    def __init__(
        self,
        snapshot: Snapshot,
        tenant: str,
        field: str,
        check: Callable[[Version], None] = lambda version: None,
        merges: Merges | None = None,
    ) -> None:
        self._snapshot = snapshot
        self._tenant = tenant
        self._field = field
        self._check = check
        self._merges = merges
        self._names = 0
        self._versions: dict[tuple[str, str, str], Version] = {}
        self._weights: ExactSum[tuple[str, str, str]] = ExactSum()

    def add(self, expression: Expression, chain: Chain = (), weight: Decimal = ONE) -> None:
        """Add an expression, which the saved compositions of `chain` led to.

        Raises UnknownModel, InvalidInput, Unsupported; Conflict if compositions contain each other.
        """
        if isinstance(expression, Reference):
            self._add_name(expression, chain, weight)
        elif isinstance(expression, Blend):
            for weighted in expression.parts:
                self.add(weighted.part, chain, product(weight, exact(weighted.weight)))
        elif isinstance(expression, Merge) and self._merges is not None:
            self._add_merge(expression, chain, weight, self._merges)
        else:
            if isinstance(expression, Fusion):
                allowed = "a fusion alone: it combines outputs, and can be no part of a blend or of another fusion"
            else:
                allowed = "names and blends of them; merges are not served yet"
            raise Unsupported(self._field, str(expression), allowed, _within(chain))

    def draft(self, expression: Expression, chain: Chain = ()) -> MergeDraft:
        """The merge that an expression is: the method's, or the sum of a blend. Raises what `add` raises."""
        if self._merges is None or isinstance(expression, Fusion):
            raise Unsupported(self._field, str(expression), "a merge, or a blend of adapters", _within(chain))
        if isinstance(expression, Merge):
            arguments = [self._argument(argument, chain) for argument in expression.arguments]
            return self._merges.draft(self._tenant, self._field, expression.method, arguments, expression.options)
        parts = self._argument(expression, chain)
        arguments = [[part] for part in parts]
        return self._merges.draft(self._tenant, self._field, "linear", arguments, ())

    def plan(self, max_versions: int) -> Plan:
        """What was added. Raises InvalidInput if it is too much."""
        weights = [(self._versions[key], weight) for key, weight in self._weights.rounded()]
        if len(weights) > max_versions:
            raise InvalidInput(self._field, f"{len(weights)} versions", f"at most {max_versions} in one composition")
        for version, weight in weights:
            if abs(weight) > MAX_WEIGHT:
                where = f"for {version.name}, saved compositions multiplied out"
                raise InvalidInput(self._field, weight, WEIGHT_RULE, where)
        return Plan.of(weights)

    def _add_merge(self, expression: Merge, chain: Chain, weight: Decimal, merges: Merges) -> None:
        draft = self.draft(expression, chain)
        for version, share in draft.blend or [(merges.merged(draft), 1.0)]:
            key = (version.tenant, version.adapter, version.digest)
            self._versions[key] = version
            self._weights.add(key, product(weight, exact(share)))

    def _argument(self, expression: Expression, chain: Chain) -> list[tuple[Version, float]]:
        """What one argument of a merge is: versions and their weights."""
        inner = Expansion(self._snapshot, self._tenant, self._field, self._check, self._merges)
        inner._names = self._names
        inner.add(expression, chain)
        self._names = inner._names
        return [(term.version, term.weight) for term in inner.plan(MAX_TERMS).terms]

    def _add_name(self, reference: Reference, chain: Chain, weight: Decimal) -> None:
        self._names += 1
        if self._names > _MAX_NAMES:
            allowed = f"at most {_MAX_NAMES} names, saved compositions written out"
            raise InvalidInput(self._field, "more names", allowed, _within(chain))
        names = names_within(self._snapshot, self._tenant, chain)
        composition = names.find_composition(reference.adapter)
        if composition is not None:
            self._add_saved(composition, reference, chain, weight)
            return
        try:
            version = names.resolve(reference.adapter, reference.at)
        except NotFound as error:
            raise self._unknown(reference, f"is not served here ({error})", chain) from error
        self._check(version)
        key = (version.tenant, version.adapter, version.digest)
        self._versions[key] = version
        self._weights.add(key, weight)

    def _add_saved(self, composition: Composition, reference: Reference, chain: Chain, weight: Decimal) -> None:
        if reference.at != PRODUCTION:
            raise self._unknown(reference, "is not served here (a composition has no versions and no aliases)", chain)
        name = name_in_chain(composition, self._tenant)
        longer = (*chain, name)
        if name in chain:
            raise Conflict(self._field, f"a composition contains itself: {_arrows(longer)}")
        if len(longer) > MAX_DEPTH:
            raise Conflict(self._field, f"at most {MAX_DEPTH} compositions within each other: {_arrows(longer)}")
        self.add(parse(composition.expression, field=self._field), longer, weight)

    def _unknown(self, reference: Reference, why: str, chain: Chain) -> UnknownModel:
        return UnknownModel(self._field, str(reference), " ".join(filter(None, (why, _within(chain)))))


def _within(chain: Chain) -> str:
    return f"in {_arrows(chain)}" if chain else ""


def _arrows(chain: Chain) -> str:
    return " -> ".join(chain)
