"""(IA)^3 (Liu et al. 2022, arXiv:2205.05638), as PEFT stores it: one vector `ia3_l` for each module.

of shape [1, in] on feed-forward modules:  y = W (l * x) + b0        dW = W diag(l - 1)
of shape [out, 1] on all others:           y = l * (W x + b0)        dW = diag(l - 1) W,  db = (l - 1) * b0
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from polyad.adapters_store.admission.patterns import Pattern, match_patterns
from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.delta import ModuleDelta, ModuleSource
from polyad.adapters_store.formats import config_values
from polyad.adapters_store.formats.config_keys import MODULES_TO_SAVE, ConfigKeys
from polyad.adapters_store.formats.conversion import Form, converted
from polyad.adapters_store.formats.selection import Selection
from polyad.adapters_store.formats.tensor_file import TensorFile
from polyad.adapters_store.formats.tensor_names import check_modules, check_parts, tensor_names

IA3_KEYS = ConfigKeys(
    consumed=frozenset({"target_modules", "exclude_modules", "feedforward_modules"}),
    unused={"fan_in_fan_out": (bool,), "init_ia3_weights": (bool,)},
    off=MODULES_TO_SAVE,
)

_PART = "ia3_l"
_ALLOWED = "base_model.model.<module>.ia3_l"


@dataclass(frozen=True)
class Ia3:
    """`feedforward` is a regular expression, or the ends of module paths."""

    selection: Selection
    feedforward: str | frozenset[str]
    kind: ClassVar[str] = "ia3"
    index_suffixes: ClassVar[tuple[str, ...]] = ()
    needs_initial: ClassVar[bool] = False

    @classmethod
    def parse(cls, config: Mapping[str, object]) -> "Ia3":
        IA3_KEYS.check(config)
        feedforward = config_values.modules("feedforward_modules", config.get("feedforward_modules"))
        return cls(Selection.parse(config), feedforward)

    def read(self, file: TensorFile, base: BaseModel, initial: TensorFile | None) -> dict[str, ModuleSource]:
        adapted = self.selection.modules(base)
        feedforward = self._feedforward(adapted)
        names = tensor_names(file, {_PART: _PART}, _ALLOWED)
        check_modules(file, names, adapted, base)
        sources = {}
        for module in adapted:
            check_parts(file, names, module, [_PART])
            sources[module] = _source(file, names[module][_PART], module, module in feedforward, base)
        return sources

    def _feedforward(self, adapted: list[str]) -> set[str]:
        if isinstance(self.feedforward, str):
            field = "adapter_config.feedforward_modules"
            return set(match_patterns([Pattern(field, "fullmatch", self.feedforward)], adapted)[0])
        # PEFT compares ends of paths here, not whole names
        return {module for module in adapted if module.endswith(tuple(self.feedforward))}


def _source(file: TensorFile, name: str, module: str, feedforward: bool, base: BaseModel) -> ModuleSource:
    out_features, in_features = base.linears[module]
    shape, why = ((1, in_features), "the inputs") if feedforward else ((out_features, 1), "the outputs")
    file.check_shape(name, shape, f"{why} of {module}")
    forms: dict[str, Form] = {"column_scale" if feedforward else "row_scale": ("F32", (max(shape),))}
    if not feedforward and module in base.biased:
        forms["bias"] = ("F32", (out_features,))

    def compute() -> ModuleDelta:
        bias = None if feedforward else base.bias(module)
        return ia3_delta(file.tensor(name).flatten(), feedforward, bias)

    return ModuleSource(tensors=converted(module, forms, compute))


def ia3_delta(factor: torch.Tensor, feedforward: bool, bias: torch.Tensor | None) -> ModuleDelta:
    """`factor` is l, of shape [in] or [out]; `bias` is b0, of shape [out], of a module that is no feed-forward one."""
    change = factor.double() - 1
    if feedforward:
        return ModuleDelta(column_scale=change)
    return ModuleDelta(row_scale=change, bias=None if bias is None else change * bias.double())
