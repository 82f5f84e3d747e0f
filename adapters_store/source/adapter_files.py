"""The files of an adapter."""

from dataclasses import dataclass
from pathlib import Path

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLE_FILE = "adapter_model.bin"
# The weights before training, for kinds that are relative to them; in a folder beside the others.
INITIAL_FILE = f"initial/{WEIGHTS_FILE}"


@dataclass(frozen=True)
class AdapterFiles:
    """`source` says where they came from, exactly: a branch of a repository has become a commit."""

    config: bytes
    weights: Path
    source: str
    initial: Path | None = None
