"""Which modules a PEFT config adapts, with which rank and scale: the rules of PEFT, applied to the base model."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from polyad.adapters_store.admission.patterns import Pattern, match_patterns
from polyad.adapters_store.admission.peft_config import ALL_LINEAR, PeftConfig
from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.errors import InvalidAdapter

Number = TypeVar("Number", int, float)

_ANY_LAYERS = re.compile(r".*?\.[^.]*\.(?P<idx>\d+)\.")


@dataclass(frozen=True)
class Target:
    rank: int
    scale: float


def resolve_targets(config: PeftConfig, base: BaseModel) -> dict[str, Target]:
    """Every module that the config adapts. Raises InvalidAdapter for none, or one that polyad cannot adapt."""
    modules = _adapted(config, base)
    if not modules:
        raise InvalidAdapter(
            "adapter_config.target_modules", _listed(config.target_modules), f"modules of base model {base.name!r}"
        )
    ranks = _lookup("rank_pattern", config.rank_pattern, config.rank, modules)
    alphas = _lookup("alpha_pattern", config.alpha_pattern, config.alpha, modules)
    return {module: Target(ranks[module], config.scale(ranks[module], alphas[module])) for module in modules}


def _adapted(config: PeftConfig, base: BaseModel) -> list[str]:
    all_linear = isinstance(config.target_modules, str) and config.target_modules.lower() == ALL_LINEAR
    candidates = sorted(base.linears if all_linear else base.linears.keys() | base.reserved)
    excluded = _matching("exclude_modules", config.exclude_modules, candidates)
    candidates = [module for module in candidates if module not in excluded]
    if all_linear:
        return candidates
    matched = _matching("target_modules", config.target_modules, candidates)
    if config.layers_to_transform:
        # PEFT lets a full path in target_modules win over layers_to_transform
        named = {module for module in matched if module in config.target_modules}
        matched = named | _in_layers(config, sorted(matched - named))
    for module in sorted(matched & base.reserved):
        raise InvalidAdapter("adapter_config.target_modules", module, "linear layers other than the output head")
    return sorted(matched)


def _matching(key: str, wanted: str | frozenset[str], modules: Sequence[str]) -> set[str]:
    if isinstance(wanted, str):
        return set(match_patterns([Pattern(f"adapter_config.{key}", "fullmatch", wanted)], modules)[0])
    return {module for module in modules if any(suffix in wanted for suffix in _suffixes(module))}


def _suffixes(module: str) -> Iterator[str]:
    parts = module.split(".")
    return (".".join(parts[start:]) for start in range(len(parts)))


def _in_layers(config: PeftConfig, modules: Sequence[str]) -> set[str]:
    if not config.layers_pattern:
        hits = {module: hit["idx"] for module in modules if (hit := _ANY_LAYERS.match(module))}
        return {module for module, layer in hits.items() if int(layer) in config.layers_to_transform}
    patterns = [
        Pattern("adapter_config.layers_pattern", "match", rf"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\.")
        for pattern in config.layers_pattern
    ]
    layers: dict[str, str | None] = {}
    for found in reversed(match_patterns(patterns, modules)):
        layers.update(found)
    return {module for module, layer in layers.items() if layer and int(layer) in config.layers_to_transform}


def _lookup(key: str, values: Mapping[str, Number], default: Number, modules: Sequence[str]) -> dict[str, Number]:
    patterns = [Pattern(f"adapter_config.{key}", "match", rf"(.*\.)?({pattern})$") for pattern in values]
    result = dict.fromkeys(modules, default)
    # the first pattern that matches wins, so it is written last
    for value, found in reversed(list(zip(values.values(), match_patterns(patterns, modules), strict=True))):
        result.update(dict.fromkeys(found, value))
    return result


def _listed(modules: str | Iterable[str]) -> object:
    return modules if isinstance(modules, str) else sorted(modules)
