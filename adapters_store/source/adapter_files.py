"""The two files of a PEFT adapter."""

from dataclasses import dataclass
from pathlib import Path

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLE_FILE = "adapter_model.bin"


@dataclass(frozen=True)
class AdapterFiles:
    """`source` says where they came from, exactly: a branch of a repository has become a commit."""

    config: bytes
    weights: Path
    source: str
