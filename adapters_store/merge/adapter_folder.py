"""Adapters from folders and back, for merges without a server."""

import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from polyad.adapters_store.admission import Limits, admit
from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.delta import Delta, read_delta
from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.formats.sft import INDICES, VALUES
from polyad.adapters_store.source.adapter_files import CONFIG_FILE, INITIAL_FILE, WEIGHTS_FILE

# One's own files: bounded, so that a broken header allocates nothing absurd.
_LIMITS = Limits(max_rank=2**16, max_bytes=2**40, max_delta_bytes=2**40, max_sparse_values_in_all=2**40)


def read_adapter(folder: Path, base: BaseModel, scratch: Path) -> Delta:
    """The delta of an adapter's folder, checked as a push is. Raises InvalidAdapter, InvalidInput."""
    config, weights, initial = (folder / name for name in (CONFIG_FILE, WEIGHTS_FILE, INITIAL_FILE))
    if not config.is_file() or not weights.is_file():
        raise InvalidInput("adapter", str(folder), f"a folder with {CONFIG_FILE} and {WEIGHTS_FILE}")
    canonical = Path(tempfile.mkdtemp(dir=scratch)) / "delta.safetensors"
    admit(config.read_bytes(), weights, base, _LIMITS, canonical, initial if initial.is_file() else None)
    return read_delta(canonical)


def write_adapter(delta: Delta, base_name: str, out: Path, others: Mapping[str, str]) -> None:
    """Write a delta as an adapter's folder that can be pushed, with `others` beside it, all or none.

    Raises InvalidInput for one whose modules are not all low-rank or all sparse.
    """
    if os.path.lexists(out):
        raise InvalidInput("out", str(out), "a folder that is not there yet")
    config, tensors = _as_lora(delta) if all(one.is_low_rank for one in delta.modules.values()) else _as_sft(delta)
    partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        named = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in tensors.items()}
        save_file(named, partial / WEIGHTS_FILE, {"format": "pt"})
        config |= {"task_type": "CAUSAL_LM", "base_model_name_or_path": base_name}
        (partial / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        for name, text in others.items():
            (partial / name).write_text(text)
        partial.chmod(0o755)
        os.replace(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _as_lora(delta: Delta) -> tuple[dict[str, object], dict[str, torch.Tensor]]:
    tensors, ranks = {}, {}
    for module, change in delta.modules.items():
        if change.low_rank is not None:
            term = change.low_rank
            tensors[f"{module}.lora_A.weight"] = term.a.float()
            tensors[f"{module}.lora_B.weight"] = term.b.float() * term.scale
            ranks[module] = term.rank
    rank = Counter(ranks.values()).most_common(1)[0][0]
    others = {re.escape(module): one for module, one in sorted(ranks.items()) if one != rank}
    config: dict[str, object] = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "bias": "none"}
    return config | {"rank_pattern": others, "alpha_pattern": others, "target_modules": sorted(ranks)}, tensors


def _as_sft(delta: Delta) -> tuple[dict[str, object], dict[str, torch.Tensor]]:
    tensors = {}
    for module, change in delta.modules.items():
        if change.sparse is None or len(change.tensors) != 2:
            allowed = (
                "a result whose modules are all low-rank or all sparse; compress makes it so, and a server saves any"
            )
            raise InvalidInput(module, sorted(change.tensors), allowed)
        tensors[f"{module}.{INDICES}"], tensors[f"{module}.{VALUES}"] = change.sparse.indices, change.sparse.values
    return {"peft_type": "SFT"}, tensors
