"""The tensors of adapter_model.safetensors, matched with what the config and the base model expect."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from polyad.adapters_store.admission.targets import Target
from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.delta import Header, TensorEntry
from polyad.adapters_store.errors import InvalidAdapter

FILE = "adapter_model"

_MAX_NAME = 500
_NAME = re.compile(r"base_model\.model\.(?P<module>\S+?)\.lora_(?P<side>[AB])(?:\.(?P<adapter>[^.\s]+))?\.weight")
_ALLOWED_NAMES = "base_model.model.<module>.lora_A.weight and .lora_B.weight"
_OTHER_PARTS = {
    "lora_magnitude_vector": "DoRA is not supported",
    "lora_embedding_": "adapted embeddings are not supported",
    "lora_B.bias": "LoRA with a bias is not supported",
    "modules_to_save": "modules trained in full are not supported",
}


@dataclass(frozen=True)
class Factors:
    a: TensorEntry
    b: TensorEntry


def match_weights(header: Header, targets: Mapping[str, Target], base: BaseModel) -> dict[str, Factors]:
    """A and B of every target. Raises InvalidAdapter for a missing, extra, ill-named or ill-shaped tensor."""
    found = _by_module(header)
    for module, side in sorted(found):
        if module not in targets:
            raise InvalidAdapter(FILE, found[module, side], _why_extra(module, base))
    for module in targets:
        for side in ("A", "B"):
            if (module, side) not in found:
                raise InvalidAdapter(FILE, f"no lora_{side} for {module}", "A and B for every target module")
    return {module: _factors(header, found, module, target, base) for module, target in targets.items()}


def _by_module(header: Header) -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    adapters: set[str | None] = set()
    for name in header.tensors:
        match = _NAME.fullmatch(name) if len(name) <= _MAX_NAME else None
        if match is None:
            reasons = [reason for part, reason in _OTHER_PARTS.items() if part in name]
            raise InvalidAdapter(FILE, name, "; ".join([_ALLOWED_NAMES, *reasons]))
        found[match["module"], match["side"]] = name
        adapters.add(match["adapter"])
    if len(adapters) > 1:
        raise InvalidAdapter(FILE, sorted(map(str, adapters)), "the tensors of one adapter")
    return found


def _why_extra(module: str, base: BaseModel) -> str:
    if module in base.linears:
        return f"modules that adapter_config.target_modules selects, {module} is not one of them"
    if module in base.reserved:
        return f"linear layers other than the output head, {module} is none"
    return f"linear layers of base model {base.name!r}, it has no {module}"


def _factors(
    header: Header, found: Mapping[tuple[str, str], str], module: str, target: Target, base: BaseModel
) -> Factors:
    out_features, in_features = base.linears[module]
    expected = {"A": (target.rank, in_features), "B": (out_features, target.rank)}
    for side, shape in expected.items():
        name = found[module, side]
        actual = header.tensors[name].shape
        if actual != shape:
            raise InvalidAdapter(
                f"{FILE}.{name}: shape",
                list(actual),
                f"{list(shape)} (rank {target.rank}; {module} of base model {base.name!r} "
                f"has {in_features} inputs and {out_features} outputs)",
            )
    return Factors(header.tensors[found[module, "A"]], header.tensors[found[module, "B"]])
