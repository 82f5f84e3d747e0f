"""The border for adapters: from PEFT's files, checked to the last byte, to the canonical delta file."""

from polyad.adapters_store.admission.admission import Admitted, admit
from polyad.adapters_store.admission.limits import Limits
from polyad.adapters_store.admission.peft_config import PeftConfig, parse_peft_config

__all__ = ["admit", "Admitted", "Limits", "PeftConfig", "parse_peft_config"]
