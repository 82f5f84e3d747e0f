"""PEFT's adapter_config.json for the LoRA family."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from polyad.adapters_store.errors import InvalidAdapter
from polyad.adapters_store.formats import config_values
from polyad.adapters_store.formats.lora_keys import LORA_KEYS
from polyad.adapters_store.formats.selection import Selection
from polyad.adapters_store.formats.stored_bias import bias_mode

# Those that leave the base weights as they are; the trained A and B then say everything.
_PLAIN = ("gaussian", "orthogonal", "eva")
# Those that train A and B against base weights that their initial values were subtracted from.
_RESIDUAL = re.compile(r"(?P<kind>pissa|olora|corda)(?:(?<=pissa)_niter_[0-9]{1,4})?")
_CONVERT = "save with PEFT's path_initial_model_for_weight_conversion to get a plain LoRA"


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """`residual` names the initialisation that changed the base weights: pissa, olora, corda, or None."""

    rank: int
    alpha: float
    use_rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    selection: Selection
    use_dora: bool
    lora_bias: bool
    bias: str
    residual: str | None

    @classmethod
    def parse(cls, config: Mapping[str, object]) -> "LoraConfig":
        """Every key is consumed or refused by name. Raises InvalidAdapter."""
        LORA_KEYS.check(config)
        parsed = cls(
            rank=config_values.positive_integer("r", config.get("r", 8)),
            alpha=config_values.number("lora_alpha", config.get("lora_alpha", 8)),
            use_rslora=config_values.boolean("use_rslora", config.get("use_rslora", False)),
            rank_pattern={
                pattern: config_values.positive_integer(f"rank_pattern.{pattern}", value)
                for pattern, value in config_values.pattern_items(config, "rank_pattern")
            },
            alpha_pattern={
                pattern: config_values.number(f"alpha_pattern.{pattern}", value)
                for pattern, value in config_values.pattern_items(config, "alpha_pattern")
            },
            selection=Selection.parse(config),
            use_dora=_switch(config, "use_dora"),
            lora_bias=_switch(config, "lora_bias"),
            bias=bias_mode(config, "lora_only"),
            residual=_residual(config.get("init_lora_weights", True)),
        )
        if parsed.lora_bias and parsed.use_dora:
            raise InvalidAdapter("adapter_config.lora_bias", True, "false with use_dora, as in PEFT")
        return parsed

    def scale(self, rank: int, alpha: float) -> float:
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


def _switch(config: Mapping[str, object], key: str) -> bool:
    value = config.get(key)
    return False if value is None else config_values.boolean(key, value)


def _residual(value: object) -> str | None:
    if isinstance(value, bool) or value in _PLAIN:
        return None
    match = _RESIDUAL.fullmatch(value) if isinstance(value, str) else None
    if match:
        return match["kind"]
    reason = "LoftQ's base weights are quantised ones" if value == "loftq" else "others may need changed base weights"
    allowed = f"true, false, {', '.join(map(repr, _PLAIN))}, or with initial factors 'pissa', 'olora', 'corda'"
    raise InvalidAdapter("adapter_config.init_lora_weights", value, f"{allowed}; {reason}: {_CONVERT}")
