"""Finds the reader that a config is for."""

from collections.abc import Callable, Mapping

from polyad.adapters_store.errors import InvalidAdapter
from polyad.adapters_store.formats.adalora import AdaLora
from polyad.adapters_store.formats.bitfit import BitFit
from polyad.adapters_store.formats.ia3 import Ia3
from polyad.adapters_store.formats.lofit import Lofit
from polyad.adapters_store.formats.loldu import Loldu
from polyad.adapters_store.formats.lora import Lora
from polyad.adapters_store.formats.reader import Reader
from polyad.adapters_store.formats.s2ft import S2ft
from polyad.adapters_store.formats.sft import Sft
from polyad.adapters_store.formats.shira import Shira
from polyad.adapters_store.formats.ssf import Ssf
from polyad.adapters_store.formats.vera import Vera

PARSERS: Mapping[str, Callable[[Mapping[str, object]], Reader]] = {
    "LORA": Lora.parse,
    "ADALORA": AdaLora.parse,
    "VERA": Vera.parse,
    "IA3": Ia3.parse,
    "SHIRA": Shira.parse,
    "SSF": Ssf.parse,
    "LOFIT": Lofit.parse,
    "BITFIT": BitFit.parse,
    "S2FT": S2ft.parse,
    "LOLDU": Loldu.parse,
    "SFT": Sft.parse,
}

_VIRTUAL_TOKENS = "virtual tokens are no change of a linear layer"
_FULL_RANK = "its change is neither low-rank, nor sparse, nor a scale"
_REASONS = {
    "PROMPT_TUNING": _VIRTUAL_TOKENS,
    "P_TUNING": _VIRTUAL_TOKENS,
    "PREFIX_TUNING": _VIRTUAL_TOKENS,
    "MULTITASK_PROMPT_TUNING": _VIRTUAL_TOKENS,
    "CPT": _VIRTUAL_TOKENS,
    "LOHA": _FULL_RANK,
    "LOKR": _FULL_RANK,
    "OFT": _FULL_RANK,
    "BOFT": _FULL_RANK,
    "LN_TUNING": "the weights of norms are no change of a linear layer",
    "TRAINABLE_TOKENS": "changed token embeddings are not supported",
}


def reader_of(config: Mapping[str, object]) -> Reader:
    """The reader of a config, which it has understood to the last key. Raises InvalidAdapter."""
    kind = config.get("peft_type")
    if kind is None and ("model_class" in config or "config" in config):
        allowed = f"{_allowed()}; this is a config of AdapterHub's adapters library, not of PEFT"
        raise InvalidAdapter("adapter_config.peft_type", None, allowed)
    if not isinstance(kind, str) or kind not in PARSERS:
        reason = _REASONS.get(kind) if isinstance(kind, str) else None
        raise InvalidAdapter("adapter_config.peft_type", kind, "; ".join(filter(None, (_allowed(), reason))))
    task = config.get("task_type")
    if task not in ("CAUSAL_LM", None):
        raise InvalidAdapter("adapter_config.task_type", task, "'CAUSAL_LM' or null")
    return PARSERS[kind](config)


def _allowed() -> str:
    return ", ".join(map(repr, PARSERS))
