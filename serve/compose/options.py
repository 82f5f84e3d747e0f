"""Options of merges and fusions: names and values are read here; what they mean, the method that they are for knows."""

import math
from collections.abc import Mapping
from typing import TypeAlias

from polyad.adapters_store.names import NAME_RULE, is_name
from polyad.serve.compose.number import number_end, number_text

Value: TypeAlias = int | float | str
Options: TypeAlias = tuple[tuple[str, Value], ...]

VALUE_RULE = f"a finite number (a whole one within 64 bits), true, false, or a word: {NAME_RULE}"

_INTEGERS = range(-(2**63), 2**63)


def options_of(values: Mapping[str, Value]) -> Options:
    """The options as expressions hold them: sorted by name."""
    return tuple(sorted(values.items()))


def read_value(text: str) -> Value | None:
    """The value that a text is: a number if it can be one, else a word; None if it is neither."""
    if number_end(text, 0) == len(text) > 0:
        return checked_number(int(text) if text.lstrip("-").isdecimal() else float(text))
    return text if is_name(text) else None


def checked_number(number: float) -> int | float | None:
    """A number as options hold it, whole ones as int, so that 1 and 1.0 are one value; None if it is out of bounds."""
    if isinstance(number, int):
        return number if number in _INTEGERS else None
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() and int(number) in _INTEGERS else number


def options_text(options: Options) -> str:
    """The options as compositions write them, behind the arguments; empty if there are none."""
    written = ", ".join(f"{name}={_value_text(value)}" for name, value in options)
    return f"; {written}" if written else ""


def _value_text(value: Value) -> str:
    return value if isinstance(value, str) else number_text(value)
