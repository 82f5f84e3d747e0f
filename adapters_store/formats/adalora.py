"""AdaLoRA (Zhang et al. 2023, arXiv:2303.10512), as PEFT stores it: lora_A [r, in], lora_E [r, 1], lora_B [out, r].

    dW = alpha / (init_r + 1e-5) * B diag(E) A

PEFT divides by the initial rank, whatever was pruned since; rank_pattern says which ranks of a module are left.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.delta import LowRank, ModuleDelta, ModuleSource
from polyad.adapters_store.errors import InvalidAdapter
from polyad.adapters_store.formats import config_values
from polyad.adapters_store.formats.config_keys import ConfigKeys
from polyad.adapters_store.formats.conversion import converted
from polyad.adapters_store.formats.lora_keys import OFF, UNUSED
from polyad.adapters_store.formats.selection import SELECTION_KEYS, Selection
from polyad.adapters_store.formats.stored_bias import StoredBiases, bias_mode, bias_part
from polyad.adapters_store.formats.tensor_file import TensorFile
from polyad.adapters_store.formats.tensor_names import ADAPTER, Names, check_parts, tensor_names

ADALORA_KEYS = ConfigKeys(
    consumed=SELECTION_KEYS | {"init_r", "lora_alpha", "rank_pattern", "bias"},
    unused={
        **UNUSED,
        "beta1": (int, float),
        "beta2": (int, float),
        "deltaT": (int,),
        "init_lora_weights": (bool,),
        "orth_reg_weight": (int, float),
        "r": (int,),
        "target_r": (int,),
        "tfinal": (int,),
        "tinit": (int,),
        "total_step": (int, type(None)),
    },
    off={
        **OFF,
        "alpha_pattern": ((None, {}), "AdaLoRA has one alpha"),
        "lora_bias": ((False, None), "AdaLoRA has no bias"),
        "use_dora": ((False, None), "AdaLoRA has no DoRA"),
        "use_rslora": ((False, None), "AdaLoRA has its own scale"),
    },
)

_PARTS = {part: rf"{part}{ADAPTER}" for part in ("lora_A", "lora_B", "lora_E")}
_ALLOWED = "base_model.model.<module>.lora_A, .lora_B and .lora_E"


@dataclass(frozen=True)
class AdaLora:
    selection: Selection
    initial_rank: int
    scale: float
    ranks: Mapping[str, int]
    bias: str
    kind: ClassVar[str] = "adalora"
    index_suffixes: ClassVar[tuple[str, ...]] = ()
    needs_initial: ClassVar[bool] = False

    @classmethod
    def parse(cls, config: Mapping[str, object]) -> "AdaLora":
        ADALORA_KEYS.check(config)
        initial_rank = config_values.positive_integer("init_r", config.get("init_r", 12))
        alpha = config_values.number("lora_alpha", config.get("lora_alpha", 8))
        if alpha <= 0:
            raise InvalidAdapter(
                "adapter_config.lora_alpha", alpha, "a positive number; PEFT takes others for the rank"
            )
        return cls(
            selection=Selection.parse(config),
            initial_rank=initial_rank,
            scale=alpha / (initial_rank + 1e-5),
            ranks=_ranks(config, initial_rank),
            bias=bias_mode(config, "lora_only"),
        )

    def read(self, file: TensorFile, base: BaseModel, initial: TensorFile | None) -> dict[str, ModuleSource]:
        adapted = self.selection.modules(base)
        if unknown := sorted(self.ranks.keys() - set(adapted)):
            raise InvalidAdapter("adapter_config.rank_pattern", unknown[0], "modules that the config selects")
        names = tensor_names(file, {**_PARTS, **bias_part(self.bias)}, _ALLOWED)
        biases = StoredBiases.matched(self.bias, adapted, file, names, base)
        ranks = {module: self.ranks.get(module, self.initial_rank) for module in adapted}
        for module, rank in ranks.items():
            _check(file, names, module, rank, base)
        changed = {module for module, rank in ranks.items() if rank} | biases.modules
        return {module: self._source(biases, module, ranks.get(module, 0)) for module in sorted(changed)}

    def _source(self, biases: StoredBiases, module: str, rank: int) -> ModuleSource:
        file, parts = biases.file, biases.names[module]
        out_features, in_features = biases.base.linears[module]
        forms = biases.forms(module)
        if rank:
            forms["low_rank.a"] = (file.tensors[parts["lora_A"]].dtype, (rank, in_features))
            forms["low_rank.b"] = ("F32", (out_features, rank))

        def compute() -> ModuleDelta:
            factors = [file.tensor(parts[part]) for part in _PARTS] if rank else []
            term = adalora_term(*factors, scale=self.scale) if factors else None
            return ModuleDelta(low_rank=term, bias=biases.change(module))

        return ModuleSource(tensors=converted(module, forms, compute), scale=self.scale if rank else None)


def adalora_term(a: torch.Tensor, b: torch.Tensor, e: torch.Tensor, *, scale: float) -> LowRank:
    """dW = scale * b diag(e) a: the singular values go into b, in float64."""
    return LowRank(a, b.double() * e.double().t(), scale)


def _ranks(config: Mapping[str, object], initial_rank: int) -> dict[str, int]:
    ranks = {}
    for key, kept in config_values.pattern_items(config, "rank_pattern"):
        module, _, part = key.rpartition(".")
        if part != "lora_E" or not _is_mask(kept, initial_rank):
            allowed = f"<module>.lora_E with a list of {initial_rank} true or false"
            raise InvalidAdapter(f"adapter_config.rank_pattern.{key[:200]}", kept, allowed)
        ranks[module] = sum(kept) if isinstance(kept, list) else 0
    return ranks


def _is_mask(value: object, length: int) -> bool:
    return isinstance(value, list) and len(value) == length and all(isinstance(item, bool) for item in value)


def _check(file: TensorFile, names: Names, module: str, rank: int, base: BaseModel) -> None:
    out_features, in_features = base.linears[module]
    shapes = {"lora_A": (rank, in_features), "lora_B": (out_features, rank), "lora_E": (rank, 1)}
    check_parts(file, names, module, shapes)
    for part, shape in shapes.items():
        file.check_shape(names[module][part], shape, f"{rank} ranks are left of {module}")
