"""Which modules a PEFT config adapts: PEFT's rules, applied to the base model."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from polyad.adapters_store.admission.patterns import Pattern, match_patterns
from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.errors import InvalidAdapter
from polyad.adapters_store.formats import config_values

ALL_LINEAR = "all-linear"
SELECTION_KEYS = frozenset({"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"})

_ANY_LAYERS = re.compile(r".*?\.[^.]*\.(?P<idx>\d+)\.")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A str in `target_modules` or `exclude_modules` is a regular expression, a set holds suffixes of module paths."""

    target_modules: str | frozenset[str]
    exclude_modules: str | frozenset[str] = frozenset()
    layers_to_transform: frozenset[int] = frozenset()
    layers_pattern: tuple[str, ...] = ()

    @classmethod
    def parse(cls, config: Mapping[str, object]) -> "Selection":
        """Raises InvalidAdapter."""
        parsed = cls(
            target_modules=config_values.modules(
                "target_modules", config.get("target_modules"), f", or {ALL_LINEAR!r}"
            ),
            exclude_modules=config_values.modules("exclude_modules", _excluded(config)),
            layers_to_transform=_layers(config.get("layers_to_transform")),
            layers_pattern=_layers_pattern(config.get("layers_pattern")),
        )
        parsed._check_layers(config)
        return parsed

    def modules(self, base: BaseModel) -> list[str]:
        """Every module that is adapted. Raises InvalidAdapter for none, or one that polyad cannot adapt."""
        modules = self._adapted(base)
        if not modules:
            wanted = _listed(self.target_modules)
            raise InvalidAdapter("adapter_config.target_modules", wanted, f"modules of base model {base.name!r}")
        return modules

    def _adapted(self, base: BaseModel) -> list[str]:
        all_linear = isinstance(self.target_modules, str) and self.target_modules.lower() == ALL_LINEAR
        candidates = sorted(base.linears if all_linear else base.linears.keys() | base.reserved)
        excluded = matching("exclude_modules", self.exclude_modules, candidates)
        candidates = [module for module in candidates if module not in excluded]
        if all_linear:
            return candidates
        matched = matching("target_modules", self.target_modules, candidates)
        if self.layers_to_transform:
            # PEFT lets a full path in target_modules win over layers_to_transform
            named = {module for module in matched if module in self.target_modules}
            matched = named | self._in_layers(sorted(matched - named))
        for module in sorted(matched & base.reserved):
            raise InvalidAdapter("adapter_config.target_modules", module, "linear layers other than the output head")
        return sorted(matched)

    def _in_layers(self, modules: Sequence[str]) -> set[str]:
        if not self.layers_pattern:
            hits = {module: hit["idx"] for module in modules if (hit := _ANY_LAYERS.match(module))}
            return {module for module, layer in hits.items() if int(layer) in self.layers_to_transform}
        patterns = [
            Pattern("adapter_config.layers_pattern", "match", rf"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\.")
            for pattern in self.layers_pattern
        ]
        layers: dict[str, str | None] = {}
        for found in reversed(match_patterns(patterns, modules)):
            layers.update(found)
        return {module for module, layer in layers.items() if layer and int(layer) in self.layers_to_transform}

    def _check_layers(self, config: Mapping[str, object]) -> None:
        if self.layers_pattern and config.get("layers_to_transform") is None:
            raise InvalidAdapter(
                "adapter_config.layers_pattern", list(self.layers_pattern), "null unless layers_to_transform is given"
            )
        if isinstance(self.target_modules, str):
            for key in ("layers_to_transform", "layers_pattern"):
                if config.get(key) is not None:
                    raise InvalidAdapter(f"adapter_config.{key}", config[key], "null when target_modules is a string")


def matching(key: str, wanted: str | frozenset[str], modules: Sequence[str]) -> set[str]:
    """The modules that an expression matches in full, or whose paths end with a name of a set."""
    if isinstance(wanted, str):
        return set(match_patterns([Pattern(f"adapter_config.{key}", "fullmatch", wanted)], modules)[0])
    return {module for module in modules if any(suffix in wanted for suffix in _suffixes(module))}


def _suffixes(module: str) -> Iterator[str]:
    parts = module.split(".")
    return (".".join(parts[start:]) for start in range(len(parts)))


def _listed(modules: str | Iterable[str]) -> object:
    return modules if isinstance(modules, str) else sorted(modules)


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
        return tuple(config_values.expression("layers_pattern", str(item)) for item in patterns)
    raise InvalidAdapter("adapter_config.layers_pattern", value, "null, a string or a list of strings")
