"""Values in a config, each checked for what it may be. All raise InvalidAdapter, naming the key."""

from collections.abc import Mapping

from polyad.adapters_store.errors import InvalidAdapter

MAX_PATTERN_LENGTH = 1_000

# scale and values meet in 16 and 32 bit arithmetic: far larger ones would overflow there
_MAX_NUMBER = 1e6
_MAX_TEXT = 1_000
_MAX_INTEGER = 2**31 - 1


def positive_integer(key: str, value: object) -> int:
    if type(value) is int and 1 <= value <= _MAX_INTEGER:
        return value
    raise InvalidAdapter(_field(key), value, "a positive integer")


def number(key: str, value: object) -> float:
    if type(value) in (int, float) and isinstance(value, int | float) and abs(value) <= _MAX_NUMBER:
        return float(value)
    raise InvalidAdapter(_field(key), value, f"a number from -{_MAX_NUMBER:g} to {_MAX_NUMBER:g}")


def boolean(key: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise InvalidAdapter(_field(key), value, "true or false")


def one_of(key: str, value: object, allowed: tuple[str, ...]) -> str:
    if isinstance(value, str) and value in allowed:
        return value
    raise InvalidAdapter(_field(key), value, " or ".join(map(repr, allowed)))


def printable(key: str, value: object) -> str | None:
    if value is None or (isinstance(value, str) and len(value) <= _MAX_TEXT and value.isprintable()):
        return value
    raise InvalidAdapter(_field(key), value, f"null or printable text of at most {_MAX_TEXT} characters")


def expression(key: str, value: str) -> str:
    """A regular expression that is short enough to look at."""
    if 0 < len(value) <= MAX_PATTERN_LENGTH:
        return value
    raise InvalidAdapter(_field(key), value, f"patterns of 1 to {MAX_PATTERN_LENGTH} characters")


def modules(key: str, value: object, also: str = "") -> str | frozenset[str]:
    """A regular expression, or a set of names."""
    if isinstance(value, str):
        return expression(key, value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return frozenset(value)
    raise InvalidAdapter(_field(key), value, f"a list of module names or a regular expression{also}")


def pattern_items(config: Mapping[str, object], key: str) -> list[tuple[str, object]]:
    """An object from regular expressions to values; null is an empty one."""
    value = config.get(key)
    if value is None:
        return []
    if not isinstance(value, dict):
        raise InvalidAdapter(_field(key), value, "an object from patterns to numbers")
    for pattern in value:
        expression(key, pattern)
    return list(value.items())


def _field(key: str) -> str:
    return f"adapter_config.{key[:200]}"
