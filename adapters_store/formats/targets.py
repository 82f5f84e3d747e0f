"""The rank and the scale of every module that a LoRA config adapts: PEFT's patterns, applied to the base model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from polyad.adapters_store.admission.patterns import Pattern, match_patterns
from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.formats.lora_config import LoraConfig

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Target:
    rank: int
    scale: float


def resolve_targets(config: LoraConfig, base: BaseModel) -> dict[str, Target]:
    """Every module that the config adapts. Raises InvalidAdapter for none, or one that polyad cannot adapt."""
    modules = config.selection.modules(base)
    ranks = _lookup("rank_pattern", config.rank_pattern, config.rank, modules)
    alphas = _lookup("alpha_pattern", config.alpha_pattern, config.alpha, modules)
    return {module: Target(ranks[module], config.scale(ranks[module], alphas[module])) for module in modules}


def _lookup(key: str, values: Mapping[str, Number], default: Number, modules: Sequence[str]) -> dict[str, Number]:
    patterns = [Pattern(f"adapter_config.{key}", "match", rf"(.*\.)?({pattern})$") for pattern in values]
    result = dict.fromkeys(modules, default)
    # the first pattern that matches wins, so it is written last
    for value, found in reversed(list(zip(values.values(), match_patterns(patterns, modules), strict=True))):
        result.update(dict.fromkeys(found, value))
    return result
