"""Biases that an adapter stores in full, in place of the base model's: BitFit, and PEFT's `bias` all and <kind>_only.

What changes is the difference, db = new - old.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.errors import InvalidAdapter
from polyad.adapters_store.formats import config_values
from polyad.adapters_store.formats.conversion import Form
from polyad.adapters_store.formats.tensor_file import TensorFile
from polyad.adapters_store.formats.tensor_names import Names, check_modules

NONE, ALL = "none", "all"


def bias_mode(config: Mapping[str, object], only: str) -> str:
    """PEFT's `bias`: none, all, or `only` those of adapted modules. Raises InvalidAdapter."""
    return config_values.one_of("bias", config.get("bias", NONE), (NONE, ALL, only))


def bias_part(mode: str) -> dict[str, str]:
    """What the names of stored biases may be; those of adapted modules lie in PEFT's base_layer."""
    return {} if mode == NONE else {"bias": r"(?:base_layer\.)?bias"}


@dataclass(frozen=True, eq=False)
class StoredBiases:
    """`modules` are those with a stored bias."""

    modules: frozenset[str]
    file: TensorFile
    names: Names
    base: BaseModel

    @classmethod
    def matched(
        cls, mode: str, adapted: Collection[str], file: TensorFile, names: Names, base: BaseModel
    ) -> "StoredBiases":
        """Those of a PEFT adapter. Raises InvalidAdapter for tensors of modules that are neither adapted nor biased,
        and unless exactly the modules that `mode` means have a bias of their shape."""
        meant = frozenset() if mode == NONE else base.biased if mode == ALL else base.biased & set(adapted)
        check_modules(file, names, {*adapted, *meant}, base)
        for module in sorted(meant):
            if "bias" not in names.get(module, {}):
                raise InvalidAdapter(file.field, f"no bias for {module}", f"one for every module that {mode!r} means")
        return cls.checked(meant, file, names, base)

    @classmethod
    def checked(cls, modules: frozenset[str], file: TensorFile, names: Names, base: BaseModel) -> "StoredBiases":
        """Raises InvalidAdapter if any other module has a bias, or one of these one of another shape."""
        for module, parts in names.items():
            if "bias" in parts and module not in modules:
                raise InvalidAdapter(file.field, parts["bias"], "biases of modules that have one, as the config means")
            if "bias" in parts:
                file.check_shape(parts["bias"], (base.linears[module][0],), f"the outputs of {module}")
        return cls(modules, file, names, base)

    def forms(self, module: str) -> dict[str, Form]:
        return {"bias": ("F32", (self.base.linears[module][0],))} if module in self.modules else {}

    def change(self, module: str) -> torch.Tensor | None:
        """db of shape [out], in float64; None if the module has no stored bias."""
        if module not in self.modules:
            return None
        new, old = self.file.tensor(self.names[module]["bias"]).double(), self.base.bias(module)
        return new if old is None else new - old.double()
