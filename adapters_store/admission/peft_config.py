"""PEFT's adapter_config.json for the LoRA family: every key is consumed or refused by name."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from polyad.adapters_store.admission.config_keys import check_other_keys
from polyad.adapters_store.delta import strict_json
from polyad.adapters_store.errors import InvalidAdapter

ALL_LINEAR = "all-linear"
MAX_PATTERN_LENGTH = 1_000

# scale and values meet in 16 and 32 bit arithmetic: far larger ones would overflow there
_MAX_ALPHA = 1e6
_MAX_TEXT = 1_000
_MAX_RANK = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class PeftConfig:
    """A str in `target_modules` or `exclude_modules` is a regular expression, a set holds suffixes of module paths."""

    rank: int
    alpha: float
    use_rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    target_modules: str | frozenset[str]
    exclude_modules: str | frozenset[str]
    layers_to_transform: frozenset[int]
    layers_pattern: tuple[str, ...]
    base_model_name: str | None

    def scale(self, rank: int, alpha: float) -> float:
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


def parse_peft_config(content: bytes) -> PeftConfig:
    """Parse the bytes of adapter_config.json, whose length the caller has bounded. Raises InvalidAdapter."""
    config = strict_json("adapter_config", content)
    _check_kind(config)
    check_other_keys(config)
    parsed = PeftConfig(
        rank=_rank("r", config.get("r", 8)),
        alpha=_alpha("lora_alpha", config.get("lora_alpha", 8)),
        use_rslora=_boolean("use_rslora", config.get("use_rslora", False)),
        rank_pattern={key: _rank(f"rank_pattern.{key}", value) for key, value in _pattern(config, "rank_pattern")},
        alpha_pattern={key: _alpha(f"alpha_pattern.{key}", value) for key, value in _pattern(config, "alpha_pattern")},
        target_modules=_modules("target_modules", config.get("target_modules")),
        exclude_modules=_modules("exclude_modules", _excluded(config)),
        layers_to_transform=_layers(config.get("layers_to_transform")),
        layers_pattern=_layers_pattern(config.get("layers_pattern")),
        base_model_name=_name("base_model_name_or_path", config.get("base_model_name_or_path")),
    )
    _check_layers(config, parsed)
    return parsed


def _check_kind(config: Mapping[str, object]) -> None:
    kind = config.get("peft_type")
    if kind is None and ("model_class" in config or "config" in config):
        raise InvalidAdapter(
            "adapter_config.peft_type", None, "'LORA'; this is a config of AdapterHub's adapters library, not of PEFT"
        )
    if kind != "LORA":
        raise InvalidAdapter("adapter_config.peft_type", kind, "'LORA'")
    task = config.get("task_type")
    if task not in ("CAUSAL_LM", None):
        raise InvalidAdapter("adapter_config.task_type", task, "'CAUSAL_LM' or null")


def _check_layers(config: Mapping[str, object], parsed: PeftConfig) -> None:
    if parsed.layers_pattern and config.get("layers_to_transform") is None:
        raise InvalidAdapter(
            "adapter_config.layers_pattern", list(parsed.layers_pattern), "null unless layers_to_transform is given"
        )
    if isinstance(parsed.target_modules, str):
        for key in ("layers_to_transform", "layers_pattern"):
            if config.get(key) is not None:
                raise InvalidAdapter(f"adapter_config.{key}", config[key], "null when target_modules is a string")


def _rank(key: str, value: object) -> int:
    if type(value) is int and 1 <= value <= _MAX_RANK:
        return value
    raise InvalidAdapter(f"adapter_config.{key[:200]}", value, "a positive integer")


def _alpha(key: str, value: object) -> float:
    if type(value) in (int, float) and isinstance(value, int | float) and abs(value) <= _MAX_ALPHA:
        return float(value)
    raise InvalidAdapter(f"adapter_config.{key[:200]}", value, f"a number from -{_MAX_ALPHA:g} to {_MAX_ALPHA:g}")


def _boolean(key: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise InvalidAdapter(f"adapter_config.{key}", value, "true or false")


def _name(key: str, value: object) -> str | None:
    if value is None or (isinstance(value, str) and len(value) <= _MAX_TEXT and value.isprintable()):
        return value
    raise InvalidAdapter(f"adapter_config.{key}", value, f"null or printable text of at most {_MAX_TEXT} characters")


def _pattern(config: Mapping[str, object], key: str) -> list[tuple[str, object]]:
    value = config.get(key)
    if value is None:
        return []
    if not isinstance(value, dict):
        raise InvalidAdapter(f"adapter_config.{key}", value, "an object from patterns to numbers")
    for pattern in value:
        _expression(key, pattern)
    return list(value.items())


def _expression(key: str, value: str) -> str:
    if 0 < len(value) <= MAX_PATTERN_LENGTH:
        return value
    raise InvalidAdapter(f"adapter_config.{key}", value, f"patterns of 1 to {MAX_PATTERN_LENGTH} characters")


def _modules(key: str, value: object) -> str | frozenset[str]:
    if isinstance(value, str):
        return _expression(key, value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return frozenset(value)
    allowed = f"a list of module names, a regular expression or '{ALL_LINEAR}'"
    raise InvalidAdapter(f"adapter_config.{key}", value, allowed)


def _excluded(config: Mapping[str, object]) -> object:
    value = config.get("exclude_modules")
    return [] if value is None or value == "" else value


def _layers(value: object) -> frozenset[int]:
    layers = [] if value is None else value if isinstance(value, list) else [value]
    if all(type(item) is int for item in layers):
        return frozenset(layers)
    raise InvalidAdapter("adapter_config.layers_to_transform", value, "null, an integer or a list of integers")


def _layers_pattern(value: object) -> tuple[str, ...]:
    # PEFT reads null, "" and [] alike: any name of a list of layers will do
    patterns = value if isinstance(value, list) else [value] if value else []
    if all(isinstance(item, str) for item in patterns):
        return tuple(_expression("layers_pattern", str(item)) for item in patterns)
    raise InvalidAdapter("adapter_config.layers_pattern", value, "null, a string or a list of strings")
