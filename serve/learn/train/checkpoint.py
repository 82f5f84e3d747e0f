"""The state of a training between two steps, as a safetensors file: a killed run goes on from the last one."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from polyad.adapters_store.atomic_file import atomic_file

Tensors = dict[str, torch.Tensor]


def write(path: Path, key: str, step: int, curve: list[tuple[int, float]], tensors: Mapping[str, torch.Tensor]) -> None:
    """Whole or not at all. `key` says which training it is of."""
    metadata = {"key": key, "step": str(step), "curve": json.dumps(curve)}
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    with atomic_file(path) as file:
        file.write(content)


def read(path: Path, key: str) -> tuple[int, list[tuple[int, float]], Tensors] | None:
    """Step, curve and tensors; None if there is none, or it is of another training."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (FileNotFoundError, SafetensorError):
        return None
    curve = [(int(step), float(loss)) for step, loss in json.loads(metadata["curve"])]
    return int(metadata["step"]), curve, tensors
