"""LoFiT, localized fine-tuning of heads (Yin et al. 2024, arXiv:2406.01563).

The output h of an attention head, before o_proj, becomes (1 + A) * h + v. For o_proj, y = W h + b0 over all heads:

    dW = W diag(A)        db = W v

A format of polyad's own: `peft_type` LOFIT; in the config `output_modules`, the last part of the path of the modules
behind the heads (o_proj), `num_heads` and `head_dim`, those of the query; for each module
`base_model.model.<module>.lofit_v` and, if it was trained, `.lofit_a`, both of shape [heads, head_dim], zero where a
head is left alone. Shape suffixes: I input features, O output features.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.delta import ModuleDelta, ModuleSource
from polyad.adapters_store.errors import InvalidAdapter
from polyad.adapters_store.formats import config_values
from polyad.adapters_store.formats.config_keys import MODULES_TO_SAVE, ConfigKeys
from polyad.adapters_store.formats.conversion import Form, converted
from polyad.adapters_store.formats.own_kind import own_names
from polyad.adapters_store.formats.tensor_file import TensorFile
from polyad.adapters_store.formats.tensor_names import check_parts

LOFIT_KEYS = ConfigKeys(consumed=frozenset({"output_modules", "num_heads", "head_dim"}), unused={}, off=MODULES_TO_SAVE)

_OFFSET, _SCALE = "lofit_v", "lofit_a"


@dataclass(frozen=True)
class Lofit:
    output_modules: str
    heads: int
    head_dim: int
    kind: ClassVar[str] = "lofit"
    index_suffixes: ClassVar[tuple[str, ...]] = ()
    needs_initial: ClassVar[bool] = False

    @classmethod
    def parse(cls, config: Mapping[str, object]) -> "Lofit":
        LOFIT_KEYS.check(config)
        suffix = config_values.printable("output_modules", config.get("output_modules"))
        if not suffix:
            raise InvalidAdapter("adapter_config.output_modules", suffix, "the name of the modules behind the heads")
        return cls(
            suffix,
            config_values.positive_integer("num_heads", config.get("num_heads")),
            config_values.positive_integer("head_dim", config.get("head_dim")),
        )

    def read(self, file: TensorFile, base: BaseModel, initial: TensorFile | None) -> dict[str, ModuleSource]:
        names = own_names(file, (_OFFSET, _SCALE), base)
        return {module: self._source(file, names[module], module, base) for module in sorted(names)}

    def _source(self, file: TensorFile, parts: Mapping[str, str], module: str, base: BaseModel) -> ModuleSource:
        out_features, in_features = base.linears[module]
        check_parts(file, {module: dict(parts)}, module, (_OFFSET,))
        if not f".{module}".endswith(f".{self.output_modules}"):
            raise InvalidAdapter(file.field, parts[_OFFSET], f"modules by the name of {self.output_modules}")
        if self.heads * self.head_dim != in_features:
            product = f"{self.heads} heads of {self.head_dim}"
            raise InvalidAdapter("adapter_config.num_heads", product, f"the {in_features} inputs of {module}")
        for name in parts.values():
            file.check_shape(name, (self.heads, self.head_dim), "num_heads and head_dim")
        forms: dict[str, Form] = {"bias": ("F32", (out_features,))}
        if _SCALE in parts:
            forms["column_scale"] = ("F32", (in_features,))

        def compute() -> ModuleDelta:
            scale = file.tensor(parts[_SCALE]) if _SCALE in parts else None
            return lofit_delta(base.weight_blocks(module), out_features, file.tensor(parts[_OFFSET]), scale)

        return ModuleSource(tensors=converted(module, forms, compute))


def lofit_delta(
    weight_blocks: Iterable[tuple[slice, torch.Tensor]],
    out_features: int,
    offset: torch.Tensor,
    scale: torch.Tensor | None,
) -> ModuleDelta:
    """`weight_blocks` yields rows of W in float64; `offset` is v, `scale` A, both of shape [heads, head_dim]."""
    v_I = offset.double().flatten()
    bias_O = torch.empty(out_features, dtype=torch.float64)
    for rows, w_OI in weight_blocks:
        bias_O[rows] = w_OI @ v_I
    return ModuleDelta(column_scale=None if scale is None else scale.double().flatten(), bias=bias_O)
