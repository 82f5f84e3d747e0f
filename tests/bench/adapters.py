"""The adapters that benchmarks push, and how."""

from collections.abc import Mapping
from pathlib import Path

import httpx

from polyad.adapters_store.base_model import BaseModel
from tests.fixtures.adapters import CONFIG, WEIGHTS, write_adapter

RANK = 16
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def write_ranks(folder: Path, base: BaseModel, ranks: Mapping[str, int]) -> dict[str, Path]:
    """Adapters on every linear layer, by name, each of a rank."""
    return {
        name: write_adapter(folder / name, base, seed=seed, rank=rank, targets=TARGETS, size=1e-3)
        for seed, (name, rank) in enumerate(ranks.items())
    }


def write_same(folder: Path, base: BaseModel, count: int) -> dict[str, Path]:
    """So many adapters of one rank."""
    return write_ranks(folder, base, {f"same-{index}": RANK for index in range(count)})


def push_to_polyad(url: str, name: str, folder: Path) -> None:
    files = {"config": (folder / CONFIG).read_bytes(), "weights": (folder / WEIGHTS).read_bytes()}
    httpx.post(f"{url}/v1/adapters", data={"name": name}, files=files, timeout=120).raise_for_status()


def push_to_stock(url: str, name: str, folder: Path) -> None:
    body = {"lora_name": name, "lora_path": str(folder)}
    httpx.post(f"{url}/v1/load_lora_adapter", json=body, timeout=120).raise_for_status()
