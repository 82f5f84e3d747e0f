"""What a merge is made of and how: frozen, readable, and the same digest for the same merge."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.merge.compress import Compress
from polyad.adapters_store.merge.method import Form, Method
from polyad.adapters_store.merge.parameter import Parameter, Value
from polyad.adapters_store.merge.registry import method_of
from polyad.adapters_store.merge.setting import Filtered, Places, Setting, read_setting, setting_json, value_at

# Part of every digest: a change of what a recipe computes gets another number.
FORMAT = "polyad.merge/1"

WEIGHT = Parameter(name="weight", default=1.0, low=-1000, high=1000)

_MOST_INPUTS = 64
_KEYS = frozenset({"format", "method", "variant", "inputs", "parameters", "seed", "compress"})
_INPUT_KEYS = frozenset({"of", "weight", "parameters"})

Settings = tuple[tuple[str, Setting], ...]


@dataclass(frozen=True)
class Input:
    """A weighted sum of `terms`, (source, coefficient) each, that the method takes with a weight.

    A source is a digest, or where a file of recipes says that an adapter lies.
    """

    terms: tuple[tuple[str, float], ...]
    weight: Setting = 1.0
    parameters: Settings = ()


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A merge, checked: every name is known, every number allowed. Raises InvalidInput, Unsupported."""

    method: str
    inputs: tuple[Input, ...]
    variant: str | None = None
    parameters: Settings = ()
    seed: int = 0
    compress: Compress | None = None

    def __post_init__(self) -> None:
        method = self.declaration
        object.__setattr__(self, "variant", method.check_variant(self.variant, "variant"))
        object.__setattr__(self, "parameters", tuple(sorted(self.parameters)))
        checked = {name: _checked(value, method.parameter(name, "parameters"), name) for name, value in self.parameters}
        object.__setattr__(self, "parameters", tuple(checked.items()))
        for one in self.inputs:
            if not one.terms:
                raise InvalidInput("inputs", one.terms, "something of which each input is made")
            for name, _ in one.parameters:
                method.parameter(name, "inputs.parameters")
        if type(self.seed) is not int or not 0 <= self.seed < 2**63:
            raise InvalidInput("seed", self.seed, "an integer from 0 to 2**63 - 1")
        if len(self.inputs) > _MOST_INPUTS:
            raise InvalidInput("inputs", len(self.inputs), f"at most {_MOST_INPUTS}")
        for weights in self._all_weights():
            method.check_inputs(weights, str(self.variant), "inputs")
        if method.form is Form.DENSE and self.compress is None:
            allowed = f"compress with a rank, an energy or a density: the result of {self.method} is dense"
            raise InvalidInput("compress", None, allowed)

    @property
    def statistics(self) -> str | None:
        """The kind of statistics that every input must have."""
        return self.declaration.statistics_of(str(self.variant))

    @property
    def declaration(self) -> Method:
        return method_of(self.method)

    @property
    def sources(self) -> tuple[str, ...]:
        """Every source, once, in order."""
        return tuple(dict.fromkeys(source for one in self.inputs for source, _ in one.terms))

    @property
    def is_blend(self) -> bool:
        """Whether it is a weighted sum with one weight for each input, whatever the module."""
        constant = not any(isinstance(value, tuple) for _, value in self.parameters)
        return self.declaration.is_blend and constant and not any(isinstance(one.weight, tuple) for one in self.inputs)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def values(self, name: str, places: Places) -> dict[str, Any]:
        """Every parameter for a tensor, and the variant."""
        given = dict(self.parameters)
        method, place = self.declaration, places.of(name)
        values: dict[str, Any] = {
            parameter.name: value_at(given[parameter.name], name, place, parameter.default)
            if parameter.name in given
            else parameter.default
            for parameter in method.parameters
        }
        return values | {"variant": self.variant}

    def constant_values(self) -> dict[str, Any]:
        """Every parameter, where none differs between tensors."""
        return self.values("", Places(()))

    def input_values(self, name: str, places: Places) -> list[dict[str, Value]]:
        """What each input sets differently for a tensor."""
        place, method = places.of(name), self.declaration
        return [
            {key: value_at(setting, name, place, method.parameter(key, key).default) for key, setting in one.parameters}
            for one in self.inputs
        ]

    def weights(self, name: str, places: Places) -> list[float]:
        """The weight of each input for a tensor."""
        place = places.of(name)
        return [float(value_at(one.weight, name, place, 1.0)) for one in self.inputs]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON, as `from_dict` reads it."""
        return {
            "format": FORMAT,
            "method": self.method,
            "variant": self.variant,
            "inputs": [
                {
                    "of": [list(term) for term in one.terms],
                    "weight": setting_json(one.weight),
                    "parameters": {name: setting_json(value) for name, value in sorted(one.parameters)},
                }
                for one in self.inputs
            ],
            "parameters": {name: setting_json(value) for name, value in self.parameters},
            "seed": self.seed,
            "compress": self.compress.as_json() if self.compress else None,
        }

    def to_json(self) -> str:
        """Canonical: the same recipe, the same text."""
        return json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], field: str = "recipe") -> "Recipe":
        """Read the plain form; what it does not know, it refuses. Raises InvalidInput, Unsupported."""
        if not isinstance(value, Mapping) or value.keys() - _KEYS or not {"method", "inputs"} <= value.keys():
            came = sorted(map(str, value)) if isinstance(value, Mapping) else value
            raise InvalidInput(field, came, f"an object with method and inputs, and perhaps {', '.join(sorted(_KEYS))}")
        if value.get("format", FORMAT) != FORMAT:
            raise InvalidInput(f"{field}.format", value["format"], FORMAT)
        name = value["method"]
        method = method_of(name if isinstance(name, str) else repr(name), f"{field}.method")
        inputs = value["inputs"]
        if not isinstance(inputs, list):
            raise InvalidInput(f"{field}.inputs", inputs, "a list")
        return cls(
            method=method.name,
            variant=value.get("variant"),
            inputs=tuple(_input(one, method, f"{field}.inputs.{place}") for place, one in enumerate(inputs)),
            parameters=_settings(value.get("parameters") or {}, method, f"{field}.parameters"),
            seed=value.get("seed", 0),
            compress=read_compress(value.get("compress"), f"{field}.compress"),
        )

    def _all_weights(self) -> list[list[float]]:
        """For each point that any weight is given at."""
        if not any(isinstance(one.weight, tuple) for one in self.inputs):
            return [[float(one.weight) for one in self.inputs if not isinstance(one.weight, tuple)]]
        if self.declaration.unweighted_variants & {str(self.variant)}:
            raise InvalidInput("inputs.weight", "a gradient", f"no weights: {self.method} knows none")
        lows = [min(_numbers(one.weight)) for one in self.inputs]
        return [lows]


def read_compress(value: object, field: str) -> Compress | None:
    """From plain JSON; None stays None. Raises InvalidInput."""
    if value is None:
        return None
    names = ("rank", "energy", "density", "max_rank", "sparse_below")
    if not isinstance(value, dict) or value.keys() - set(names):
        raise InvalidInput(field, value, f"an object of {', '.join(names)}")
    return Compress(**value)


def _input(value: object, method: Method, field: str) -> Input:
    if not isinstance(value, dict) or value.keys() - _INPUT_KEYS or "of" not in value:
        raise InvalidInput(field, value, "an object with of, and perhaps weight and parameters")
    of = value["of"]
    pairs = [[of, 1.0]] if isinstance(of, str) else of
    if not isinstance(pairs, list) or not all(_is_term(pair) for pair in pairs):
        raise InvalidInput(f"{field}.of", of, "a source, or a list of [source, coefficient]")
    return Input(
        tuple((source, float(coefficient)) for source, coefficient in pairs),
        read_setting(value.get("weight", 1.0), WEIGHT, f"{field}.weight"),
        _settings(value.get("parameters") or {}, method, f"{field}.parameters"),
    )


def _is_term(pair: object) -> bool:
    if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
        return False
    return isinstance(pair[1], int | float) and not isinstance(pair[1], bool) and abs(pair[1]) <= WEIGHT.high


def _settings(value: object, method: Method, field: str) -> Settings:
    if not isinstance(value, dict):
        raise InvalidInput(field, value, "an object of parameters")
    found = [
        (str(name), read_setting(one, method.parameter(str(name), field), f"{field}.{name}"))
        for name, one in value.items()
    ]
    return tuple(sorted(found, key=lambda pair: pair[0]))


def _checked(setting: Setting, parameter: Parameter, field: str) -> Setting:
    return setting if isinstance(setting, tuple) else parameter.check(setting, field)


def _numbers(setting: Setting) -> list[float]:
    if not isinstance(setting, tuple):
        return [float(setting)]
    return [number for one in setting for number in _numbers(one.value if isinstance(one, Filtered) else one)]
