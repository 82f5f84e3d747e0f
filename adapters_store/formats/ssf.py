"""SSF, scaling and shifting of features (Lian et al. 2022, arXiv:2210.08823), behind linear layers.

    y = scale * (W x + b0) + shift        dW = diag(scale - 1) W,  db = (scale - 1) * b0 + shift

A format of polyad's own, as the authors' is for vision models: `peft_type` SSF, and for each module
`base_model.model.<module>.ssf_scale` and `.ssf_shift`, both of shape [out].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.delta import ModuleDelta, ModuleSource
from polyad.adapters_store.formats.conversion import converted
from polyad.adapters_store.formats.own_kind import OWN_KEYS, own_names
from polyad.adapters_store.formats.tensor_file import TensorFile
from polyad.adapters_store.formats.tensor_names import check_parts

_SCALE, _SHIFT = "ssf_scale", "ssf_shift"
_NORMS = "a norm's scale and shift are no change of a linear layer, and which layers it feeds is not in the file"


@dataclass(frozen=True)
class Ssf:
    kind: ClassVar[str] = "ssf"
    index_suffixes: ClassVar[tuple[str, ...]] = ()
    needs_initial: ClassVar[bool] = False

    @classmethod
    def parse(cls, config: Mapping[str, object]) -> "Ssf":
        OWN_KEYS.check(config)
        return cls()

    def read(self, file: TensorFile, base: BaseModel, initial: TensorFile | None) -> dict[str, ModuleSource]:
        names = own_names(file, (_SCALE, _SHIFT), base, _NORMS)
        return {module: _source(file, names[module], module, base) for module in sorted(names)}


def _source(file: TensorFile, parts: Mapping[str, str], module: str, base: BaseModel) -> ModuleSource:
    check_parts(file, {module: dict(parts)}, module, (_SCALE, _SHIFT))
    out_features = base.linears[module][0]
    for name in parts.values():
        file.check_shape(name, (out_features,), f"the outputs of {module}")

    def compute() -> ModuleDelta:
        return ssf_delta(file.tensor(parts[_SCALE]), file.tensor(parts[_SHIFT]), base.bias(module))

    forms = {part: ("F32", (out_features,)) for part in ("row_scale", "bias")}
    return ModuleSource(tensors=converted(module, forms, compute))


def ssf_delta(scale: torch.Tensor, shift: torch.Tensor, bias: torch.Tensor | None) -> ModuleDelta:
    """All of shape [out]; `bias` is b0."""
    change = scale.double() - 1
    moved = shift.double() if bias is None else change * bias.double() + shift.double()
    return ModuleDelta(row_scale=change, bias=moved)
