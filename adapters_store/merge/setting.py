"""Values that may differ from module to module: one for all, a gradient over the layers, or by parts of names.

    0.5                                               everywhere
    [0, 0.5, 1]                                       points along the layers, straight lines between them
    [{"filter": "mlp", "value": [0, 1]}, {"value": 0.5}]    the first whose filter is part of the tensor's name

These are mergekit's forms, and mean the same. A layer is a number in a tensor's name; a tensor of no layer is at the
start.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.merge.parameter import Parameter, Value

_LAYER = re.compile(r"(?:^|\.)(\d{1,6})(?:\.|$)", re.ASCII)
_MOST = 4096


@dataclass(frozen=True)
class Filtered:
    """`filter` is part of the names that the value is for; None is for all."""

    value: "Value | tuple[Value, ...]"
    filter: str | None = None


Setting: TypeAlias = Value | tuple[Value, ...] | tuple[Filtered, ...]


def read_setting(value: object, parameter: Parameter, field: str) -> Setting:
    """From JSON or YAML. Raises InvalidInput for what the parameter does not allow."""
    if isinstance(value, list) and value and len(value) <= _MOST and all(isinstance(item, dict) for item in value):
        return tuple(_filtered(item, parameter, f"{field}.{place}") for place, item in enumerate(value))
    if isinstance(value, dict):
        return (_filtered(value, parameter, field),)
    return _plain(value, parameter, field)


def setting_json(setting: Setting) -> Any:
    """What `read_setting` reads back as the same."""
    if not isinstance(setting, tuple):
        return setting
    return [
        {"filter": one.filter, "value": setting_json(one.value)} if isinstance(one, Filtered) else one
        for one in setting
    ]


def value_at(setting: Setting, name: str, place: float, default: Value) -> Value:
    """The value for a tensor; `place` is that of its layer, from 0 to 1. The default if no filter fits."""
    if not isinstance(setting, tuple):
        return setting
    if isinstance(setting[0], Filtered):
        for one in setting:
            if isinstance(one, Filtered) and (one.filter in (None, "*") or str(one.filter) in name):
                return value_at(one.value, name, place, default)
        return default
    points = [point for point in setting if not isinstance(point, Filtered)]
    scaled = place * (len(points) - 1)
    first = int(scaled)
    numbers = [point for point in points if isinstance(point, int | float) and not isinstance(point, bool)]
    if len(numbers) < len(points):
        return points[first]
    second = min(first + 1, len(numbers) - 1)
    share = scaled - first
    return (1 - share) * numbers[first] + share * numbers[second]


@lru_cache(2**12)
def layer_of(name: str) -> int | None:
    """The number of the layer that a tensor's name tells."""
    found = _LAYER.search(name)
    return int(found[1]) if found else None


class Places:
    """Where in the model a tensor is, from 0 (the first layer) to 1 (the last)."""

    def __init__(self, names: Iterable[str]) -> None:
        self._last = max((layer for name in names if (layer := layer_of(name)) is not None), default=0)

    def of(self, name: str) -> float:
        layer = layer_of(name)
        return layer / self._last if layer and self._last else 0.0


def _filtered(value: dict[Any, object], parameter: Parameter, field: str) -> Filtered:
    if "value" not in value or value.keys() - {"value", "filter"}:
        raise InvalidInput(field, sorted(map(str, value)), "an object with value, and perhaps filter")
    wanted = value.get("filter")
    if wanted is not None and not isinstance(wanted, str):
        raise InvalidInput(f"{field}.filter", wanted, "a part of names, or nothing")
    return Filtered(_plain(value["value"], parameter, f"{field}.value"), wanted)


def _plain(value: object, parameter: Parameter, field: str) -> Value | tuple[Value, ...]:
    if not isinstance(value, list):
        return parameter.check(value, field)
    if not 1 <= len(value) <= _MOST:
        raise InvalidInput(field, f"{len(value)} points", f"1 to {_MOST}")
    return tuple(parameter.check(item, f"{field}.{place}") for place, item in enumerate(value))
