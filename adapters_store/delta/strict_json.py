"""JSON from outside: an object, UTF-8, no duplicate keys, no NaN, nesting and numbers bounded."""

import json
from typing import NoReturn

from polyad.adapters_store.errors import InvalidAdapter


class _Refused(ValueError):
    pass


def strict_json(field: str, content: bytes) -> dict[str, object]:
    """Parse one JSON object; raise InvalidAdapter, naming `field`, for anything else.

    The caller bounds the length of `content`: parsing needs memory in proportion to it.
    """
    try:
        text = content.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise InvalidAdapter(field, content[:40], f"UTF-8 text ({error.reason} at byte {error.start})") from error
    except _Refused as error:
        raise InvalidAdapter(field, error.args[0], str(error.args[1])) from error
    except RecursionError as error:
        raise InvalidAdapter(field, text[:40], "JSON without deep nesting") from error
    except ValueError as error:
        raise InvalidAdapter(field, text[:40], f"valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise InvalidAdapter(field, value, "a JSON object")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result: dict[str, object] = {}
    for key, value in pairs:
        if key in result:
            raise _Refused(key, "each key once in an object")
        result[key] = value
    return result


def _no_constant(name: str) -> NoReturn:
    raise _Refused(name, "numbers that JSON knows (no NaN, no Infinity)")
