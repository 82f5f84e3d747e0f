"""PEFT's LoRA with all that it can be: rsLoRA, patterns, DoRA, biases, and adapters against a residual.

Plain factors are copied as they are; what is computed is kept in float32.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.delta import ModuleSource
from polyad.adapters_store.formats.lora_config import LoraConfig
from polyad.adapters_store.formats.lora_modules import FACTORS, LoraModules
from polyad.adapters_store.formats.stored_bias import StoredBiases, bias_part
from polyad.adapters_store.formats.targets import resolve_targets
from polyad.adapters_store.formats.tensor_file import TensorFile
from polyad.adapters_store.formats.tensor_names import ADAPTER, check_modules, tensor_names

_MAGNITUDE = {"lora_magnitude_vector": r"lora_magnitude_vector(?:\.(?!weight$)(?P<adapter>[^.\s]+))?(?:\.weight)?"}
_LORA_BIAS = {"lora_B.bias": rf"lora_B{ADAPTER}\.bias"}
_ALLOWED = "base_model.model.<module>.lora_A.weight and .lora_B.weight"


@dataclass(frozen=True)
class Lora:
    """`kind` is lora, dora, or the name of the initialisation that the adapter is a change of."""

    config: LoraConfig
    index_suffixes: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def parse(cls, config: Mapping[str, object]) -> "Lora":
        return cls(LoraConfig.parse(config))

    @property
    def kind(self) -> str:
        return "dora" if self.config.use_dora else self.config.residual or "lora"

    @property
    def needs_initial(self) -> bool:
        return self.config.residual is not None

    def read(self, file: TensorFile, base: BaseModel, initial: TensorFile | None) -> dict[str, ModuleSource]:
        targets = resolve_targets(self.config, base)
        names = tensor_names(file, self._parts(), _ALLOWED)
        biases = StoredBiases.matched(self.config.bias, targets, file, names, base)
        # saved by the same config; of what else it holds nothing is needed
        initial_names = tensor_names(initial, self._parts(), _ALLOWED) if initial else {}
        if initial:
            check_modules(initial, initial_names, {*targets, *biases.modules}, base)
        modules = LoraModules(self.config, biases, initial, initial_names)
        return {module: modules.source(module, targets.get(module)) for module in sorted({*targets, *biases.modules})}

    def _parts(self) -> dict[str, str]:
        return {
            **FACTORS,
            **(_MAGNITUDE if self.config.use_dora else {}),
            **(_LORA_BIAS if self.config.lora_bias else {}),
            **bias_part(self.config.bias),
        }
