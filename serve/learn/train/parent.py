"""From a version's delta to a PEFT model that goes on from it, and back to an adapter's files."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from polyad.adapters_store.delta import Delta, LowRank, ModuleDelta
from polyad.adapters_store.errors import Unsupported

NAME = "default"
_PREFIX = "base_model.model."


def low_rank_parts(delta: Delta) -> dict[str, LowRank]:
    """The low-rank term of each module. Raises Unsupported if the version has other terms: only LoRA can go on."""
    parts = {}
    for module, change in delta.modules.items():
        others = [name for name in ("sparse", "row_scale", "column_scale", "bias") if getattr(change, name) is not None]
        if change.low_rank is None or others:
            allowed = "low-rank terms alone: training goes on from LoRA"
            raise Unsupported("parent", f"{module} with {', '.join(others) or 'nothing'}", allowed)
        parts[module] = change.low_rank
    if not parts:
        raise Unsupported("parent", "a version that changes nothing", "one with low-rank terms")
    return parts


def continued(base: Any, delta: Delta) -> PeftModel:
    """The base model with the version's factors, in float32, as the trainable adapter. `base` is changed in place."""
    parts = low_rank_parts(delta)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=max(part.rank for part in parts.values()),
        target_modules=sorted(parts),
        rank_pattern={_exactly(module): part.rank for module, part in parts.items()},
        alpha_pattern={_exactly(module): part.scale * part.rank for module, part in parts.items()},
        lora_dropout=0.0,
        bias="none",
    )
    model = get_peft_model(base, config)
    with torch.no_grad():
        for module, part in parts.items():
            adapted: Any = model.get_submodule(_PREFIX + module)
            adapted.lora_A[NAME].weight.copy_(part.a.float())
            adapted.lora_B[NAME].weight.copy_(part.b.float())
    return model


def delta_of(model: PeftModel) -> Delta:
    """What the adapter changes now; the factors are copies."""
    modules = {}
    layers: Any = model.named_modules()
    for name, layer in layers:
        if hasattr(layer, "lora_A") and NAME in layer.lora_A:
            a, b = layer.lora_A[NAME].weight.detach(), layer.lora_B[NAME].weight.detach()
            part = LowRank(a.cpu().clone(), b.cpu().clone(), float(layer.scaling[NAME]))
            modules[name.removeprefix(_PREFIX)] = ModuleDelta(low_rank=part)
    return Delta(modules)


def load(model: PeftModel, delta: Delta) -> None:
    """Put a delta of the same shapes and scales into the model."""
    with torch.no_grad():
        for module, part in low_rank_parts(delta).items():
            adapted: Any = model.get_submodule(_PREFIX + module)
            adapted.lora_A[NAME].weight.copy_(part.a)
            adapted.lora_B[NAME].weight.copy_(part.b * (part.scale / adapted.scaling[NAME]))


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The adapter's parameters by their names."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def save_delta(model: PeftModel, path: Path) -> str:
    """Write the adapter as a delta file; its digest."""
    from polyad.adapters_store.delta import write_delta

    return write_delta(delta_of(model), path)


def _exactly(module: str) -> str:
    return f"^{module.replace('.', '[.]')}"
