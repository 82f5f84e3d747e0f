"""From a merge in an expression to a recipe over versions, and to the version that it came to."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from polyad.adapters_store.errors import InvalidInput, MergePending
from polyad.adapters_store.merge import Compress, Input, Products, Recipe, method_of
from polyad.adapters_store.registry import MergedVersion, MergeEntry, Version
from polyad.serve.compose.options import Options, Value, options_text
from polyad.serve.compose.weights import sum_text

# Recipes of requests say how small their result must be. What a sum or a method gives exactly within the server's
# bounds stays exact; what is dense keeps this share of its squared norm, if max_rank ranks can.
_ENERGY = 0.99
_SPARSE_BELOW = 0.05
_FOR_ALL = ("variant", "seed", "compress_rank", "compress_energy", "compress_density")

Argument = Sequence[tuple[Version, float]]


@dataclass(frozen=True)
class MergeDraft:
    """A merge that a request asks for. `blend` is what it is without being computed, where it is a weighted sum."""

    tenant: str
    recipe: Recipe
    text: str
    base: str
    parents: tuple[Version, ...]
    blend: tuple[tuple[Version, float], ...] = ()

    @property
    def id(self) -> str:
        """What its job is called: the recipe's digest."""
        return self.recipe.digest


class MissingMerge(MergePending):
    """A merge that is to be computed before the request can go on."""

    def __init__(self, field: str, draft: MergeDraft) -> None:
        super().__init__(f"{field}: {draft.text} is not computed yet: its job is {draft.id}")
        self.draft = draft


class Merges:
    """The merges that this server knows to be computed, in memory; whoever computes them adds them.

    `max_rank` bounds results, as it bounds adapters.
    """

    def __init__(self, max_rank: int) -> None:
        self._max_rank = max_rank
        self._known: dict[tuple[str, str], MergeEntry] = {}

    def add(self, entry: MergeEntry) -> None:
        self._known[entry.tenant, entry.id] = entry

    def forget(self, tenant: str, recipe: str) -> None:
        self._known.pop((tenant, recipe), None)

    def unseen(self) -> "Merges":
        """The same, but as if everything were computed."""
        return _Unseen(self._max_rank)

    def merged(self, draft: MergeDraft) -> MergedVersion:
        """What the merge came to. Raises MissingMerge."""
        entry = self._known.get((draft.tenant, draft.id))
        if entry is None:
            raise MissingMerge("model", draft)
        return merged_version(entry, draft)

    def draft(self, tenant: str, field: str, name: str, arguments: Sequence[Argument], options: Options) -> MergeDraft:
        """The recipe of a method over versions. Raises Unsupported for an unknown one, InvalidInput for what it
        refuses.

        An argument that is one adapter gives its weight to the method; one that is a sum is taken as it is.
        """
        method_of(name, field)
        given = dict(options)
        try:
            recipe = Recipe(
                method=name,
                variant=_word(given, "variant"),
                inputs=tuple(_input(argument) for argument in arguments),
                parameters=tuple((key, value) for key, value in given.items() if key not in _FOR_ALL),
                seed=_seed(given.get("seed", 0)),
                compress=self._compress(given),
            )
        except InvalidInput as error:
            # the message names the option, the field is where the request said it
            error.field = field
            raise
        if recipe.statistics is not None:
            allowed = f"methods that need no {recipe.statistics} statistics; {name} is for `polyad merge`"
            raise InvalidInput(field, name, allowed)
        versions = {version.digest: version for argument in arguments for version, _ in argument}
        text = f"{name}({', '.join(_text(argument) for argument in arguments)}{options_text(options)})"
        base = next(iter(versions.values())).base
        blend = _blend(recipe, versions) if recipe.is_blend and not given.keys() & set(_FOR_ALL[2:]) else ()
        return MergeDraft(tenant, recipe, text, base, _parents(versions.values()), blend)

    def _compress(self, given: dict[str, Value]) -> Compress:
        chosen = [name for name in _FOR_ALL[2:] if name in given]
        if len(chosen) > 1:
            raise InvalidInput("options", chosen, "one of compress_rank, compress_energy and compress_density")
        if not chosen:
            return Compress(energy=_ENERGY, max_rank=self._max_rank, sparse_below=_SPARSE_BELOW)
        value = given[chosen[0]]
        if isinstance(value, str):
            raise InvalidInput(chosen[0], value, "a number")
        if chosen == ["compress_density"]:
            return Compress(density=float(value))
        if chosen == ["compress_energy"]:
            return Compress(energy=float(value), max_rank=self._max_rank)
        if not isinstance(value, int) or not 1 <= value <= self._max_rank:
            raise InvalidInput("compress_rank", value, f"1 to {self._max_rank}, the server's max_rank")
        return Compress(rank=value)


class _Unseen(Merges):
    def merged(self, draft: MergeDraft) -> MergedVersion:
        return MergedVersion(
            tenant=draft.tenant,
            adapter=draft.text,
            digest=draft.id,
            size=0,
            base=draft.base,
            rank=0,
            targets=(),
            source="merge",
            created=time.time(),
            merged=draft.parents,
        )


def merged_version(entry: MergeEntry, draft: MergeDraft) -> MergedVersion:
    """The version that requests for the draft are served by."""
    return MergedVersion(
        tenant=entry.tenant,
        adapter=draft.text,
        digest=entry.digest,
        size=entry.size,
        base=entry.base,
        rank=entry.rank,
        targets=entry.targets,
        source="merge",
        kind="merge",
        created=entry.created,
        recipe=entry.recipe,
        merged=draft.parents,
    )


def _blend(recipe: Recipe, versions: dict[str, Version]) -> tuple[tuple[Version, float], ...]:
    coefficients = recipe.declaration.coefficients
    if coefficients is None:
        return ()
    weights = [float(one.weight) for one in recipe.inputs if not isinstance(one.weight, tuple)]
    values = recipe.constant_values()
    shares = coefficients(Products((), weights, values))
    return tuple(
        (versions[source], share * coefficient)
        for one, share in zip(recipe.inputs, shares, strict=True)
        for source, coefficient in one.terms
    )


def _input(argument: Argument) -> Input:
    if not argument:
        raise InvalidInput("arguments", "()", "adapters: a merge of the base model with itself changes nothing")
    if len(argument) == 1:
        ((version, weight),) = argument
        return Input(((version.digest, 1.0),), weight)
    return Input(tuple((version.digest, weight) for version, weight in argument))


def _text(argument: Argument) -> str:
    return sum_text((version.name, weight) for version, weight in argument)


def _parents(versions: Iterable[Version]) -> tuple[Version, ...]:
    """The adapters' own versions, through merges of merges."""
    return tuple(
        parent
        for version in versions
        for parent in (version.merged if isinstance(version, MergedVersion) else (version,))
    )


def _word(given: dict[str, Value], name: str) -> str | None:
    value = given.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidInput(name, value, "a word")
    return value


def _seed(value: Value) -> int:
    if not isinstance(value, int) or value < 0:
        raise InvalidInput("seed", value, "an integer from 0")
    return value
