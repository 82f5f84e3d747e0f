"""The parameters of mergekit's methods: what they are called here, who may set them, and what mergekit assumes.

A parameter stands with a model, or in the file's own `parameters`. Conditions of which none fits a tensor give way to
the next of the two, and at last to mergekit's default, as they do there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from polyad.adapters_store.errors import InvalidInput, Unsupported
from polyad.adapters_store.merge.parameter import Parameter, Value
from polyad.adapters_store.merge.recipe import WEIGHT
from polyad.adapters_store.merge.registry import method_of
from polyad.adapters_store.merge.setting import Filtered, Setting, read_setting, setting_json


@dataclass(frozen=True)
class Known:
    """`ours` is its name here. Without a default, mergekit insists on a value."""

    ours: str
    default: Value | None = None
    per_model: bool = False


_WEIGHT = Known("weight", per_model=True)
_SUM = {"weight": _WEIGHT, "lambda": Known("scale", 1.0)}
_TRIMMED = {**_SUM, "density": Known("density", 1.0, per_model=True)}
_DELLA = {**_TRIMMED, "epsilon": Known("epsilon", 0.15, per_model=True)}
_BREADCRUMBS = {
    **_SUM,
    "density": Known("keep", 1.0, per_model=True),
    "gamma": Known("drop_top", 0.01, per_model=True),
}
_NORMALIZED, _NOT_NORMALIZED = {"normalize": Known("normalize", True)}, {"normalize": Known("normalize", False)}

METHODS: Mapping[str, Mapping[str, Known]] = {
    "linear": {"weight": _WEIGHT, **_NORMALIZED},
    "slerp": {"t": Known("t")},
    "nuslerp": {"weight": _WEIGHT},
    "model_stock": {},
    "sce": {"select_topk": Known("select_topk", 1.0)},
    "task_arithmetic": _SUM,
    "ties": _TRIMMED | _NORMALIZED,
    "dare_linear": _TRIMMED,
    "dare_ties": _TRIMMED | _NOT_NORMALIZED,
    "della": _DELLA | _NORMALIZED,
    "della_linear": _DELLA,
    "breadcrumbs": _BREADCRUMBS,
    "breadcrumbs_ties": _BREADCRUMBS,
}
# What polyad does in one way alone.
FIXED: Mapping[str, Mapping[str, bool]] = {
    "nuslerp": {"nuslerp_flatten": True, "nuslerp_row_wise": False},
    "model_stock": {"filter_wise": False},
    "task_arithmetic": {"normalize": False},
    "ties": {"rescale": False},
    "dare_linear": {"rescale": True, "normalize": False},
    "dare_ties": {"rescale": True},
    "della": {"rescale": True},
    "della_linear": {"rescale": True, "normalize": False},
    "breadcrumbs": {"rescale": False, "normalize": False},
    "breadcrumbs_ties": {"rescale": False, "normalize": False},
}
# Neither changes a number: the first is how mergekit stores masks, the second counts only where it is fixed.
IGNORED = frozenset({"int8_mask", "rescale"})


def read_parameters(value: object, method: str, field: str, *, of_model: bool) -> dict[str, Setting]:
    """By mergekit's names. Raises InvalidInput, Unsupported."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput(field, value, "an object of parameters")
    found: dict[str, Setting] = {}
    for key, one in value.items():
        name, known = str(key), METHODS[method].get(str(key))
        if known is None:
            _check_fixed(one, name, method, f"{field}.{name}")
        elif of_model and not known.per_model:
            raise Unsupported(f"{field}.{name}", one, f"in the file's own parameters: {name} is for all models at once")
        else:
            found[name] = read_setting(one, _declared(method, known), f"{field}.{name}")
    return found


def resolved(name: str, method: str, given: Sequence[Mapping[str, Setting]], field: str) -> Setting:
    """What holds for every tensor, of settings from the nearest to the farthest. Raises InvalidInput."""
    default = METHODS[method][name].default
    settings = [settings[name] for settings in given if name in settings]
    conditions: list[Filtered] = []
    for setting in (*settings, *([] if default is None else [default])):
        for condition in _conditions(setting):
            conditions.append(condition)
            if condition.filter in (None, "*"):
                return condition.value if len(conditions) == 1 else tuple(conditions)
    came = [setting_json(setting) for setting in settings]
    allowed = "a value, or conditions of which the last has no filter: mergekit assumes nothing for it"
    raise InvalidInput(f"{field}.{name}", came[0] if came else None, allowed)


def _check_fixed(value: object, name: str, method: str, field: str) -> None:
    fixed = FIXED.get(method, {}).get(name)
    if fixed is not None and value is not fixed:
        raise Unsupported(field, value, f"{str(fixed).lower()}: polyad knows no other {method}")
    if fixed is None and name not in IGNORED:
        known = ", ".join((*METHODS[method], *FIXED.get(method, {}))) or "none"
        raise Unsupported(field, value, f"parameters of {method} that both mergekit and polyad know: {known}")


def _declared(method: str, known: Known) -> Parameter:
    return WEIGHT if known.ours == WEIGHT.name else method_of(method).parameter(known.ours, known.ours)


def _conditions(setting: Setting) -> list[Filtered]:
    if not isinstance(setting, tuple):
        return [Filtered(setting)]
    points = tuple(one for one in setting if not isinstance(one, Filtered))
    return [Filtered(points)] if points else [one for one in setting if isinstance(one, Filtered)]
