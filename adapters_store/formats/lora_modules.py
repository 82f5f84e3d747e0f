"""The modules of a LoRA adapter: factors that are copied, or computed where the config asks for more than factors."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from polyad.adapters_store.delta import LowRank, ModuleDelta, ModuleSource, TensorSource
from polyad.adapters_store.errors import InvalidAdapter
from polyad.adapters_store.formats.conversion import Form, converted
from polyad.adapters_store.formats.dora import dora_delta
from polyad.adapters_store.formats.lora_config import LoraConfig
from polyad.adapters_store.formats.residual import without_initial
from polyad.adapters_store.formats.stored_bias import StoredBiases
from polyad.adapters_store.formats.targets import Target
from polyad.adapters_store.formats.tensor_file import TensorFile
from polyad.adapters_store.formats.tensor_names import ADAPTER, Names, check_parts

FACTORS = {"lora_A": rf"lora_A{ADAPTER}\.weight", "lora_B": rf"lora_B{ADAPTER}\.weight"}


@dataclass(frozen=True, eq=False)
class LoraModules:
    """`initial` holds the factors before training, for an adapter against a residual."""

    config: LoraConfig
    biases: StoredBiases
    initial: TensorFile | None
    initial_names: Names

    def source(self, module: str, target: Target | None) -> ModuleSource:
        """`target` is None for a module of which nothing but the bias is changed. Raises InvalidAdapter."""
        if target is None:
            return ModuleSource(tensors=self._bias_source(module, None))
        self._check(module, target)
        if self.config.use_dora or self.initial:
            return ModuleSource(tensors=self._computed(module, target), scale=target.scale)
        file, parts = self.biases.file, self.biases.names[module]
        factors = {"low_rank.a": file.source(parts["lora_A"]), "low_rank.b": file.source(parts["lora_B"])}
        return ModuleSource(tensors={**factors, **self._bias_source(module, target)}, scale=target.scale)

    def _check(self, module: str, target: Target) -> None:
        base = self.biases.base
        if self.config.residual == "olora" and module in base.transposed:
            # PEFT factors such a weight as it lies, [in, out], into A and B of the wrong sides
            allowed = f"another for {module}: PEFT's OLoRA is wrong for layers whose weights lie transposed (Conv1D)"
            raise InvalidAdapter("adapter_config.init_lora_weights", "olora", allowed)
        out_features, in_features = base.linears[module]
        why = (
            f"rank {target.rank}; "
            f"{module} of base model {base.name!r} has {in_features} inputs and {out_features} outputs"
        )
        factors = {"lora_A": (target.rank, in_features), "lora_B": (out_features, target.rank)}
        vectors = {"lora_magnitude_vector": self.config.use_dora, "lora_B.bias": self.config.lora_bias}
        wanted = dict.fromkeys((part for part in vectors if vectors[part]), (out_features,))
        _check_shapes(self.biases.file, self.biases.names, module, {**factors, **wanted}, why)
        if self.initial:
            _check_shapes(self.initial, self.initial_names, module, factors, why)

    def _computed(self, module: str, target: Target) -> dict[str, TensorSource]:
        out_features, in_features = self.biases.base.linears[module]
        rank = target.rank * (2 if self.initial else 1)
        dtype = self._factor_dtype(module)
        forms: dict[str, Form] = {
            "low_rank.a": (dtype, (rank, in_features)),
            "low_rank.b": ("F32" if self.config.use_dora else dtype, (out_features, rank)),
            **({"row_scale": ("F32", (out_features,))} if self.config.use_dora else {}),
            **self._bias_forms(module, target),
        }
        return converted(module, forms, lambda: replace(self._change(module, target), bias=self._bias(module, target)))

    def _change(self, module: str, target: Target) -> ModuleDelta:
        file, parts = self.biases.file, self.biases.names[module]
        term = LowRank(file.tensor(parts["lora_A"]), file.tensor(parts["lora_B"]), target.scale)
        if self.initial:
            before = self.initial_names[module]
            term = without_initial(term, self.initial.tensor(before["lora_A"]), self.initial.tensor(before["lora_B"]))
        if self.config.use_dora:
            return dora_delta(self.biases.base.weight_blocks(module), term, file.tensor(parts["lora_magnitude_vector"]))
        return ModuleDelta(low_rank=term)

    def _factor_dtype(self, module: str) -> str:
        """The factors' own, if they have one: then nothing is rounded."""
        files = [(self.biases.file, self.biases.names), *([(self.initial, self.initial_names)] if self.initial else [])]
        dtypes = {file.tensors[names[module][part]].dtype for file, names in files for part in FACTORS}
        return dtypes.pop() if len(dtypes) == 1 else "F32"

    def _bias(self, module: str, target: Target | None) -> torch.Tensor | None:
        """db: the stored bias in place of the base's, and PEFT's lora_bias, which is scaled as the factors are."""
        stored = self.biases.change(module)
        if target is None or not self.config.lora_bias:
            return stored
        own = target.scale * self.biases.file.tensor(self.biases.names[module]["lora_B.bias"]).double()
        return own if stored is None else stored + own

    def _bias_forms(self, module: str, target: Target | None) -> dict[str, Form]:
        own = target is not None and self.config.lora_bias
        return {"bias": ("F32", (self.biases.base.linears[module][0],))} if own else self.biases.forms(module)

    def _bias_source(self, module: str, target: Target | None) -> dict[str, TensorSource]:
        forms = self._bias_forms(module, target)
        return converted(module, forms, lambda: ModuleDelta(bias=self._bias(module, target)))


def _check_shapes(file: TensorFile, names: Names, module: str, shapes: Mapping[str, tuple[int, ...]], why: str) -> None:
    check_parts(file, names, module, shapes)
    for part, shape in shapes.items():
        file.check_shape(names[module][part], shape, why)
