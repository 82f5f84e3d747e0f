"""Compositions as JSON: the same language as the text, for programs that would have to write it.

    {"blend": [{"adapter": "support", "at": "canary", "weight": 0.7}, {"adapter": "tone", "weight": 0.3}]}
    {"merge": "ties", "of": [{"adapter": "a"}, {"adapter": "b", "weight": 0.5}], "options": {"density": 0.2}}
    {"fuse": [{"adapter": "a"}, {"adapter": "b"}], "options": {"mode": "static"}}

Everything but a fusion may have a `weight`.
"""

from collections.abc import Iterator
from typing import Any, TypeAlias

from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.names import PRODUCTION, check_model_name, check_name, check_reference
from polyad.serve.compose.bounds import MAX_DEPTH, MAX_OPTIONS, MAX_TERMS, MAX_WEIGHT, WEIGHT_RULE
from polyad.serve.compose.expression import FUSE, Blend, Delta, Expression, Fusion, Merge, Reference, Weighted, blend
from polyad.serve.compose.options import VALUE_RULE, Options, Value, checked_number, options_of, read_value
from polyad.serve.compose.parser import check_length
from polyad.serve.compose.weights import ExactSum, exact

_Node: TypeAlias = dict[str, object]
_Sum: TypeAlias = ExactSum[Reference | Merge]

_KEYS = {
    "adapter": frozenset({"adapter", "at", "weight"}),
    "blend": frozenset({"blend", "weight"}),
    "merge": frozenset({"merge", "of", "options", "weight"}),
    FUSE: frozenset({FUSE, "options"}),
}
_DELTA_RULE = "an object with adapter, with blend, or with merge and of"
_FORM_RULE = f"{_DELTA_RULE}; or one with fuse"
_SHOWN = 64


def from_json(value: object, field: str = "model") -> Expression:
    """Read the JSON form. Raises InvalidInput, which names the place, as `model.blend.0.weight`."""
    return check_length(_Reader().expression(value, field, 0), field)


def to_json(expression: Expression) -> dict[str, Any]:
    """The JSON form of an expression: `from_json` reads it back as the same."""
    if isinstance(expression, Reference):
        return {"adapter": expression.adapter} | ({} if expression.at == PRODUCTION else {"at": expression.at})
    if isinstance(expression, Blend):
        parts = [_weighted(part) for part in expression.parts]
        return parts[0] if len(parts) == 1 else {"blend": parts}
    options = {"options": dict(map(_plain, expression.options))} if expression.options else {}
    arguments = [to_json(argument) for argument in expression.arguments]
    if isinstance(expression, Merge):
        return {"merge": expression.method, "of": arguments, **options}
    return {FUSE: arguments, **options}


class _Reader:
    """Reads one form; the depth is bounded before anything is looked at."""

    def __init__(self) -> None:
        self._terms = 0

    def expression(self, value: object, path: str, depth: int) -> Expression:
        if not isinstance(value, dict) or _KEYS.keys().isdisjoint(value):
            raise InvalidInput(path, _came(value), _FORM_RULE)
        if FUSE not in value:
            return self._delta(value, path, depth)
        node = self._node(value, FUSE, path, depth)
        arguments = tuple(self.expression(*item, depth + 1) for item in _items(node, FUSE, path))
        return Fusion(arguments, _options(node, path))

    def _delta(self, value: object, path: str, depth: int) -> Delta:
        return blend(self._sum(value, path, depth), path)

    def _sum(self, value: object, path: str, depth: int) -> _Sum:
        kinds = [kind for kind in _KEYS if kind != FUSE and isinstance(value, dict) and kind in value]
        if not isinstance(value, dict) or not kinds:
            raise InvalidInput(path, _came(value), _DELTA_RULE)
        node = self._node(value, kinds[0], path, depth)
        total: _Sum = ExactSum()
        if kinds[0] == "adapter":
            total.add(_reference(node, path))
        elif kinds[0] == "merge":
            total.add(self._merge(node, path, depth))
        else:
            for item, place in _items(node, "blend", path, least=0):
                nested = isinstance(item, dict) and "blend" in item
                total.add_all(self._sum(item, place, depth + nested))
        total.scale(exact(_weight(node, path)))
        return total

    def _merge(self, node: _Node, path: str, depth: int) -> Merge:
        method = check_name(f"{path}.merge", _string(node, "merge", path))
        if method == FUSE:
            raise InvalidInput(f"{path}.merge", method, 'the name of a method; a fusion is {"fuse": [...]}')
        arguments = tuple(self._delta(*item, depth + 1) for item in _items(node, "of", path))
        return Merge(method, arguments, _options(node, path))

    def _node(self, value: dict[Any, object], kind: str, path: str, depth: int) -> _Node:
        if depth > MAX_DEPTH:
            raise InvalidInput(path, "one more", f"at most {MAX_DEPTH} compositions within each other")
        self._terms += kind != "blend"
        if self._terms > MAX_TERMS:
            raise InvalidInput(path, "one more", f"at most {MAX_TERMS} names and methods in all")
        for key in value:
            if key not in _KEYS[kind]:
                allowed = f"with {kind}: {', '.join(sorted(_KEYS[kind] - {kind}))}"
                raise InvalidInput(f"{path}.{_key(key)}", _key(key), allowed)
        return value


def _reference(node: _Node, path: str) -> Reference:
    adapter = check_model_name(f"{path}.adapter", _string(node, "adapter", path))
    return Reference(adapter, check_reference(f"{path}.at", _string(node, "at", path)) if "at" in node else PRODUCTION)


def _string(node: _Node, key: str, path: str) -> str:
    value = node[key]
    if not isinstance(value, str):
        raise InvalidInput(f"{path}.{key}", _came(value), "a string")
    return value


def _weight(node: _Node, path: str) -> float:
    value = node.get("weight", 1)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_WEIGHT:
        raise InvalidInput(f"{path}.weight", _came(value), WEIGHT_RULE)
    return float(value)


def _items(node: _Node, key: str, path: str, least: int = 1) -> Iterator[tuple[object, str]]:
    value = node.get(key)
    if not isinstance(value, list) or not least <= len(value) <= MAX_TERMS:
        came = f"{len(value)} items" if isinstance(value, list) else _came(value)
        raise InvalidInput(f"{path}.{key}", came, f"an array of {least} to {MAX_TERMS} compositions")
    return ((item, f"{path}.{key}.{index}") for index, item in enumerate(value))


def _options(node: _Node, path: str) -> Options:
    value = node.get("options", {})
    if not isinstance(value, dict) or len(value) > MAX_OPTIONS:
        came = f"{len(value)} options" if isinstance(value, dict) else _came(value)
        raise InvalidInput(f"{path}.options", came, f"an object with at most {MAX_OPTIONS} options")
    names = [check_name(f"{path}.options", _key(name)) for name in value]
    return options_of({name: _option(f"{path}.options.{name}", value[name]) for name in names})


def _option(path: str, value: object) -> Value:
    read: Value | None = None
    if isinstance(value, bool):
        read = "true" if value else "false"
    elif isinstance(value, int | float):
        read = checked_number(value)
    elif isinstance(value, str) and len(value) <= _SHOWN:
        read = read_value(value)
    if read is None:
        raise InvalidInput(path, _came(value), VALUE_RULE)
    return read


def _weighted(weighted: Weighted) -> dict[str, Any]:
    weight = {} if weighted.weight == 1 else {"weight": weighted.weight}
    return to_json(weighted.part) | weight


def _plain(option: tuple[str, Value]) -> tuple[str, object]:
    name, value = option
    return name, value == "true" if value in ("true", "false") else value


def _key(key: object) -> str:
    return key[:_SHOWN] if isinstance(key, str) else type(key).__name__


def _came(value: object) -> object:
    """What an error shows of a value: nothing that is long, or deep."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    if isinstance(value, int) and abs(value) >= 2**64:
        return "a number beyond 64 bits"
    return value if isinstance(value, str | int | float | None) else type(value).__name__
