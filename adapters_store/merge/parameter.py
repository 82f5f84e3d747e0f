"""What a method may be told, declared so that it is checked before any tensor is touched."""

import math
import sys
from dataclasses import dataclass
from typing import TypeAlias

from polyad.adapters_store.errors import InvalidInput

Value: TypeAlias = bool | int | float | str


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A number within [low, high] (without its ends where `open_low`, `open_high`), a flag, or one of `choices`."""

    name: str
    default: Value
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    choices: tuple[str, ...] = ()

    def check(self, value: object, field: str) -> Value:
        """The value as the method takes it. Raises InvalidInput, which names `field` and what is allowed."""
        if self.choices:
            if value in self.choices:
                return str(value)
        elif isinstance(self.default, bool):
            if isinstance(value, bool) or value in ("true", "false"):
                return value in (True, "true")
        elif isinstance(value, int | float) and not isinstance(value, bool) and self._allows(value):
            return float(value)
        raise InvalidInput(field, value, self.rule)

    @property
    def rule(self) -> str:
        """What may be given, for people."""
        if self.choices:
            return ", ".join(self.choices)
        if isinstance(self.default, bool):
            return "true or false"
        low = "" if self.low == -math.inf else f" {'above' if self.open_low else 'from'} {self.low:g}"
        high = "" if self.high == math.inf else f" {'below' if self.open_high else 'to'} {self.high:g}"
        return f"a finite number{low}{high}"

    def _allows(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        # an integer may be beyond every float, where isfinite raises
        return abs(value) <= sys.float_info.max and above and below


def share(name: str, default: float) -> Parameter:
    """A share of the elements, above 0 and at most 1."""
    return Parameter(name=name, default=default, low=0, high=1, open_low=True)


SCALE = Parameter(name="scale", default=1.0, low=-1000, high=1000)
