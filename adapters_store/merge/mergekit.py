"""Reads mergekit's configuration files, for the methods that both have.

    models: [{model, parameters}], or one or more slices of the same layers; merge_method, base_model, parameters, dtype

A parameter is a value, a gradient over the layers, or a list with filters, and may stand with a model or for all. Names
become ours (gamma and density of breadcrumbs are drop_top and keep, lambda is scale), and mergekit's defaults are kept.
What would change the result and is not known here is refused by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polyad.adapters_store.errors import InvalidInput, Unsupported
from polyad.adapters_store.merge.compress import Compress
from polyad.adapters_store.merge.recipe import Recipe

_TOP = frozenset(
    {"models", "slices", "merge_method", "base_model", "parameters", "dtype", "out_dtype", "compress", "seed"}
    | {"tokenizer_source", "tokenizer", "chat_template", "name"}
)
_SAME = frozenset({"t", "normalize", "density", "epsilon", "select_topk"})
_NAMES = {"lambda": "scale"}
_BREADCRUMBS = {"gamma": "drop_top", "density": "keep"}
# What mergekit assumes where it differs from our defaults.
_DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "linear": {"normalize": True},
    "ties": {"density": 1.0},
    "dare_linear": {"density": 1.0},
    "dare_ties": {"density": 1.0},
    "della": {"density": 1.0},
    "della_linear": {"density": 1.0},
    "breadcrumbs": {"keep": 1.0},
    "breadcrumbs_ties": {"keep": 1.0},
}
# Accepted, for they change nothing of the result here.
_IGNORED = frozenset({"int8_mask", "rescale"})
_DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class MergekitConfig:
    """A recipe, and what surrounds it: the base model's folder, the models', and the dtype to write."""

    recipe: Recipe
    base: str | None
    models: tuple[str, ...]
    dtype: str | None
    out_dtype: str | None


def is_mergekit(value: Mapping[str, Any]) -> bool:
    """Whether a file of recipes is one of mergekit's."""
    return "merge_method" in value


def read_mergekit(value: Mapping[str, Any]) -> MergekitConfig:
    """Raises InvalidInput, Unsupported."""
    for key in value:
        if key not in _TOP:
            raise Unsupported(str(key), value[key], f"of mergekit's keys: {', '.join(sorted(_TOP))}")
    method = value["merge_method"]
    base = _path(value.get("base_model"), "base_model")
    models = _models(value)
    shared = _shared(value, method)
    if method == "slerp":
        models = _slerp_order(models, base)
    elif base is not None:
        models = [model for model in models if model["model"] != base]
    names = tuple(str(model["model"]) for model in models)
    recipe: dict[str, Any] = {
        "method": method,
        "variant": _variant(method),
        "inputs": [_input(model, method, shared, place) for place, model in enumerate(models)],
        "parameters": {name: one for name, one in shared.items() if name != "weight"},
        "seed": value.get("seed", 0),
        "compress": value.get("compress"),
    }
    # Full models need no compression, and a recipe for adapters says so itself.
    if recipe["compress"] is None and method == "sce":
        recipe["compress"] = Compress(density=1.0).as_json()
    dtypes = [_dtype(value.get(key), key) for key in ("dtype", "out_dtype")]
    return MergekitConfig(Recipe.from_dict(recipe), base, names, dtypes[0], dtypes[1])


def _models(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    if ("models" in value) == ("slices" in value):
        raise InvalidInput("models", sorted(map(str, value)), "models or slices, and not both")
    found = value.get("models") if "models" in value else _sources(value["slices"])
    if not isinstance(found, list) or not all(isinstance(one, dict) and "model" in one for one in found):
        raise InvalidInput("models", found, "a list of objects with model, and perhaps parameters")
    return [{**one, "model": _path(one["model"], "models.model")} for one in found]


def _sources(slices: object) -> list[dict[str, Any]]:
    """The models of slices that put the layers of one model beside those of others, none moved."""
    allowed = "one slice, whose sources have one layer_range: layers are merged, not moved"
    if not isinstance(slices, list) or len(slices) != 1 or not isinstance(slices[0], dict):
        raise Unsupported("slices", slices, allowed)
    sources = slices[0].get("sources")
    if not isinstance(sources, list) or slices[0].keys() - {"sources"}:
        raise Unsupported("slices", slices[0], allowed)
    ranges = {str(source.get("layer_range")) for source in sources if isinstance(source, dict)}
    if len(ranges) != 1 or not all(source["layer_range"][0] == 0 for source in sources):
        raise Unsupported("slices.sources", sorted(ranges), allowed)
    return [{key: one for key, one in source.items() if key != "layer_range"} for source in sources]


def _shared(value: Mapping[str, Any], method: str) -> dict[str, Any]:
    return {**_DEFAULTS.get(method, {}), **_parameters(value.get("parameters") or {}, method, "parameters")}


def _parameters(value: object, method: str, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(field, value, "an object of parameters")
    if value.get("rescale") is False and method.startswith(("dare", "della")):
        raise Unsupported(f"{field}.rescale", False, "true: polyad always scales what is left")
    found: dict[str, Any] = {}
    for name, one in value.items():
        if name in _IGNORED:
            continue
        names = _BREADCRUMBS if method.startswith("breadcrumbs") else {}
        ours = names.get(str(name)) or _NAMES.get(str(name), str(name))
        if ours == name and name not in _SAME and name != "weight":
            raise Unsupported(f"{field}.{name}", one, "parameters that both mergekit and polyad know")
        if ours == "normalize" and method in ("task_arithmetic", "breadcrumbs", "dare_linear", "della_linear"):
            if one:
                raise Unsupported(f"{field}.normalize", one, f"false for {method}")
            continue
        found[ours] = one
    return found


def _input(model: Mapping[str, Any], method: str, shared: Mapping[str, Any], place: int) -> dict[str, Any]:
    field = f"models.{place}.parameters"
    own = _parameters(model.get("parameters") or {}, method, field)
    weight = own.pop("weight", shared.get("weight", 1.0))
    return {"of": str(model["model"]), "weight": weight, "parameters": own}


def _slerp_order(models: list[dict[str, Any]], base: str | None) -> list[dict[str, Any]]:
    """t = 0 is the base model."""
    if base is None or len(models) != 2 or base not in [model["model"] for model in models]:
        raise InvalidInput("base_model", base, "one of the two models of slerp: the one that t = 0 is")
    return sorted(models, key=lambda model: model["model"] != base)


def _variant(method: str) -> str | None:
    return None if method in ("linear", "task_arithmetic") else "mergekit"


def _path(value: object, field: str) -> str | None:
    if value is None or (isinstance(value, str) and value and "+" not in value):
        return value
    raise Unsupported(field, value, "the folder of a model")


def _dtype(value: object, field: str) -> str | None:
    if value is None or value in _DTYPES:
        return None if value is None else str(value)
    raise InvalidInput(field, value, ", ".join(_DTYPES))
