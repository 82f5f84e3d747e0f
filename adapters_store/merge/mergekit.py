"""Reads mergekit's configuration files, for the methods that both have.

    models: [{model, parameters}], or one slice of all layers; merge_method, base_model, parameters, dtype, out_dtype

A parameter is a value, a gradient over the layers, or a list with filters, and may stand with a model or for all. Names
become ours (gamma and density of breadcrumbs are drop_top and keep, lambda is scale), and mergekit's defaults are kept.
The tokenizer is the base model's. `seed` is our own, and `name` says nothing of the result. All else is refused by
name; what only the models can tell (how many layers there are) is asked of them by `open_models`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyad.adapters_store.errors import InvalidInput, Unsupported
from polyad.adapters_store.merge.compress import Compress
from polyad.adapters_store.merge.mergekit_parameters import METHODS, read_parameters, resolved
from polyad.adapters_store.merge.recipe import Input, Recipe
from polyad.adapters_store.merge.setting import Setting

_KEYS = frozenset(
    {"models", "slices", "merge_method", "base_model", "parameters", "dtype", "out_dtype"}
    | {"tokenizer_source", "tokenizer", "chat_template", "name", "seed"}
)
_DTYPES = ("float32", "float16", "bfloat16")
_ONE_SLICE = "one slice of all layers: polyad merges layers, and neither moves nor leaves out any"


@dataclass(frozen=True)
class MergekitConfig:
    """A recipe, and what surrounds it: the base model's folder, the models', and the dtype to write.

    `layers` is where a slice ends: all layers that the models must have. `same_vocabulary` says that tokens were to be
    matched to the base model's, which is done only where they are already.
    """

    recipe: Recipe
    base: str | None
    models: tuple[str, ...]
    dtype: str | None
    out_dtype: str | None
    layers: int | None = None
    same_vocabulary: bool = False


@dataclass(frozen=True)
class _Source:
    """A model, where in the file it stands, and what it says of itself."""

    field: str
    model: str
    parameters: Mapping[str, Setting]


def is_mergekit(value: Mapping[str, Any]) -> bool:
    """Whether a file of recipes is one of mergekit's."""
    return "merge_method" in value


def read_mergekit(value: Mapping[str, Any]) -> MergekitConfig:
    """Raises InvalidInput, Unsupported."""
    _check_keys(value, _KEYS, "")
    method = value.get("merge_method")
    if not isinstance(method, str) or method not in METHODS:
        raise Unsupported("merge_method", method, f"methods of both mergekit and polyad: {', '.join(METHODS)}")
    base = None if value.get("base_model") is None else _path(value["base_model"], "base_model")
    shared = read_parameters(value.get("parameters"), method, "parameters", of_model=False)
    stated, layers = _stated(value, method)
    sources = _merged(stated, method, base, added=layers is None, shared=shared)
    recipe = Recipe(
        method=method,
        variant=None if method in ("linear", "task_arithmetic") else "mergekit",
        inputs=tuple(_input(source, method, shared) for source in sources),
        parameters=tuple(_for_all(method, shared).items()),
        seed=value.get("seed", 0),
        # A whole model is written whole; a recipe for adapters must say so itself.
        compress=Compress(density=1.0) if method == "sce" else None,
    )
    return MergekitConfig(
        recipe,
        base,
        tuple(source.model for source in sources),
        _dtype(value.get("dtype"), "dtype"),
        _dtype(value.get("out_dtype"), "out_dtype"),
        layers,
        _same_vocabulary(value, base or sources[0].model),
    )


def _check_keys(value: Mapping[Any, Any], known: frozenset[str], field: str) -> None:
    for key, one in value.items():
        if key not in known:
            raise Unsupported(f"{field}{key}", one, f"no such key; polyad does {', '.join(sorted(known))}")


def _stated(value: Mapping[str, Any], method: str) -> tuple[list[_Source], int | None]:
    """What the file calls models, and where its slice ends."""
    models, slices = value.get("models"), value.get("slices")
    if (models is None) == (slices is None):
        raise InvalidInput("models", sorted(map(str, value)), "models or slices, and not both")
    if models is not None:
        return [_source(one, method, f"models.{place}") for place, one in enumerate(_list(models, "models"))], None
    found = _list(slices, "slices")
    if len(found) != 1:
        raise Unsupported("slices", f"{len(found)} slices", _ONE_SLICE)
    if not isinstance(found[0], dict):
        raise InvalidInput("slices.0", found[0], "an object with sources")
    _check_keys(found[0], frozenset({"sources"}), "slices.0.")
    sources = _list(found[0].get("sources"), "slices.0.sources")
    fields = [f"slices.0.sources.{place}" for place in range(len(sources))]
    read = [_source(one, method, field, "layer_range") for one, field in zip(sources, fields, strict=True)]
    ends = [_end(one.get("layer_range"), f"{field}.layer_range") for one, field in zip(sources, fields, strict=True)]
    if len(set(ends)) != 1:
        raise Unsupported("slices.0.sources", [[0, end] for end in ends], f"one layer_range; {_ONE_SLICE}")
    return read, ends[0]


def _list(value: object, field: str) -> list[Any]:
    if isinstance(value, list) and value:
        return value
    raise InvalidInput(field, value, "a list of one or more")


def _source(value: object, method: str, field: str, *more: str) -> _Source:
    if not isinstance(value, dict):
        raise InvalidInput(field, value, "an object with model, and perhaps parameters")
    _check_keys(value, frozenset({"model", "parameters", *more}), f"{field}.")
    parameters = read_parameters(value.get("parameters"), method, f"{field}.parameters", of_model=True)
    return _Source(field, _path(value.get("model"), f"{field}.model"), parameters)


def _end(value: object, field: str) -> int:
    """Of a range from the first layer on."""
    if not isinstance(value, list) or len(value) != 2 or any(type(one) is not int for one in value):
        raise InvalidInput(field, value, "[0, the number of layers]")
    if value[0] != 0 or value[1] < 1:
        raise Unsupported(field, value, f"[0, the number of layers]; {_ONE_SLICE}")
    return int(value[1])


def _merged(
    sources: Sequence[_Source], method: str, base: str | None, *, added: bool, shared: Mapping[str, Setting]
) -> list[_Source]:
    """The models that the method takes, in its order; `added` if mergekit puts the base model among those named."""
    names = [source.model for source in sources]
    for source in sources:
        if names.count(source.model) > 1:
            raise InvalidInput(f"{source.field}.model", source.model, "each model once")
    if method == "slerp":
        if base is None or len(names) != 2 or base not in names:
            raise InvalidInput("base_model", base, "one of the two models of slerp: the one that t = 0 is")
        return sorted(sources, key=lambda source: source.model != base)
    if method != "linear":
        return [source for source in sources if source.model != base]
    # To linear the base model is a model among others.
    if base is None or base in names or not added:
        return list(sources)
    if "weight" not in shared:
        raise InvalidInput("base_model", base, "one of the models, with its weight: linear merges the base model, too")
    return [*sources, _Source("base_model", base, {})]


def _input(source: _Source, method: str, shared: Mapping[str, Setting]) -> Input:
    own: dict[str, Setting] = {
        known.ours: resolved(name, method, (source.parameters, shared), f"{source.field}.parameters")
        for name, known in METHODS[method].items()
        if known.per_model
    }
    weight = own.pop("weight", 1.0)
    return Input(((source.model, 1.0),), weight, tuple(sorted(own.items(), key=lambda pair: pair[0])))


def _for_all(method: str, shared: Mapping[str, Setting]) -> dict[str, Setting]:
    return {
        known.ours: resolved(name, method, (shared,), "parameters")
        for name, known in METHODS[method].items()
        if not known.per_model
    }


def _same_vocabulary(value: Mapping[str, Any], owner: str) -> bool:
    """Whether the file asks for the tokenizer that it gets anyway: that of `owner`, the base model or the first."""
    if value.get("chat_template"):
        raise Unsupported("chat_template", value["chat_template"], "none: the base model's is kept")
    source, field, tokenizer = value.get("tokenizer_source"), "tokenizer_source", value.get("tokenizer")
    if tokenizer is not None:
        if source is not None or not isinstance(tokenizer, dict):
            raise InvalidInput("tokenizer", tokenizer, "an object with source, and no tokenizer_source beside it")
        _check_keys(tokenizer, frozenset({"source"}), "tokenizer.")
        # mergekit's default
        source, field = tokenizer.get("source", "union"), "tokenizer.source"
    elif source is None:
        return False
    if source == "base" or (source == owner and source != "union"):
        return True
    raise Unsupported(field, source, "base, or the base model: its tokenizer is kept")


def _path(value: object, field: str) -> str:
    if isinstance(value, str) and value and "+" not in value and "@" not in value:
        return value
    raise Unsupported(field, value, "the folder of a model, without a LoRA (+) or a revision (@)")


def _dtype(value: object, field: str) -> str | None:
    if value is None or value in _DTYPES:
        return None if value is None else str(value)
    raise InvalidInput(field, value, ", ".join(_DTYPES))
