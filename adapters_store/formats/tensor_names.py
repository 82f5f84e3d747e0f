"""The names of an adapter's tensors: `base_model.model.<module>.<part>`, as PEFT writes them."""

import re
from collections.abc import Collection, Mapping

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.errors import InvalidAdapter
from polyad.adapters_store.formats.tensor_file import TensorFile

PREFIX = "base_model.model."

# Where PEFT's adapter name stands if a checkpoint has it: `default` in lora_A.default.weight.
ADAPTER = r"(?:\.(?P<adapter>[^.\s]+))?"

_MAX_NAME = 500
_NOT_SERVED = {
    "lora_magnitude_vector": "DoRA is not switched on in the config",
    "lora_embedding_": "adapted embeddings are not supported",
    "lora_B.bias": "LoRA with a bias is not switched on in the config",
    "modules_to_save": "modules trained in full are not supported",
}

Names = dict[str, dict[str, str]]


def tensor_names(file: TensorFile, parts: Mapping[str, str], allowed: str, other: Collection[str] = ()) -> Names:
    """The names of the tensors by module and part; `other` are left out.

    `parts` holds an expression for each part. Raises InvalidAdapter, saying what is `allowed`, for any other name, for
    two of one part, or for the names of two adapters.
    """
    expressions = {
        part: re.compile(rf"{re.escape(PREFIX)}(?P<module>\S+?)\.{expression}") for part, expression in parts.items()
    }
    found: Names = {}
    adapters: set[str | None] = set()
    for name in (name for name in file.tensors if name not in other):
        part, match = _match(file, name, expressions, allowed)
        if part in found.setdefault(match["module"], {}):
            raise InvalidAdapter(file.field, name, f"one tensor, {found[match['module']][part]} is there as well")
        found[match["module"]][part] = name
        if "adapter" in match.re.groupindex:
            adapters.add(match["adapter"])
    if len(adapters) > 1:
        raise InvalidAdapter(file.field, sorted(map(str, adapters)), "the tensors of one adapter")
    return found


def check_modules(file: TensorFile, found: Names, modules: Collection[str], base: BaseModel) -> None:
    """Raise InvalidAdapter for a tensor of any other module, or of none that the base model has."""
    for module in sorted(found):
        if module not in modules:
            name = next(iter(found[module].values()))
            raise InvalidAdapter(file.field, name, _why_extra(module, base))


def check_parts(file: TensorFile, found: Names, module: str, parts: Collection[str]) -> None:
    """Raise InvalidAdapter if one of the parts of a module is missing."""
    for part in parts:
        if part not in found.get(module, {}):
            allowed = " and ".join(sorted(parts))
            raise InvalidAdapter(file.field, f"no {part} for {module}", f"{allowed} for every adapted module")


def _match(
    file: TensorFile, name: str, expressions: Mapping[str, re.Pattern[str]], allowed: str
) -> tuple[str, re.Match[str]]:
    hits = (
        (part, hit)
        for part, expression in expressions.items()
        if len(name) <= _MAX_NAME and (hit := expression.fullmatch(name))
    )
    for part, hit in hits:
        return part, hit
    reasons = [reason for mark, reason in _NOT_SERVED.items() if mark in name]
    raise InvalidAdapter(file.field, name, "; ".join([allowed, *reasons]))


def _why_extra(module: str, base: BaseModel) -> str:
    if module in base.linears:
        return f"modules that the config selects, {module} is not one of them"
    if module in base.reserved:
        return f"linear layers other than the output head, {module} is none"
    return f"linear layers of base model {base.name!r}, it has no {module}"
