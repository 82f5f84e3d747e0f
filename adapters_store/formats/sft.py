"""SFT, sparse fine-tuning (SpIEL, Ansell et al. 2024, arXiv:2401.16405): a sparse dW.

As the authors' fork of PEFT stores it: `peft_type` SFT, and for each module
`base_model.model.<module>.sft_delta.values` and `.sft_delta.indices`, flat and row-major into W of shape [out, in], in
any order. polyad's importer writes it too, and may add `base_model.model.<module>.bias`, which takes the place of the
base's bias.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.delta import ModuleDelta, ModuleSource
from polyad.adapters_store.formats.bitfit import NOT_LINEAR
from polyad.adapters_store.formats.config_keys import MODULES_TO_SAVE, ConfigKeys
from polyad.adapters_store.formats.conversion import converted
from polyad.adapters_store.formats.own_kind import own_names
from polyad.adapters_store.formats.sparse_values import sorted_sparse, sparse_forms
from polyad.adapters_store.formats.stored_bias import StoredBiases
from polyad.adapters_store.formats.tensor_file import TensorFile
from polyad.adapters_store.formats.tensor_names import check_parts

# Settings of SpIEL's training. Which modules are changed the tensors say, so target_modules is among them.
SFT_KEYS = ConfigKeys(
    unused={
        "candidate_reselection_proportion": (int, float, type(None)),
        "candidate_reselection_steps": (int, type(None)),
        "density": (int, float, type(None)),
        "dtype": (str, type(None)),
        "initial_reselection_rate": (int, float, type(None)),
        "num_deltas": (dict, type(None)),
        "num_tunable_weights": (int, type(None)),
        "reselection_rate_policy": (str, type(None)),
        "reselection_steps": (int, type(None)),
        "selection_accumulation_steps": (int, type(None)),
        "selection_algorithm": (str, type(None)),
        "target_modules": (list, str, type(None)),
    },
    off=MODULES_TO_SAVE,
)

INDICES, VALUES = "sft_delta.indices", "sft_delta.values"


@dataclass(frozen=True)
class Sft:
    kind: ClassVar[str] = "sft"
    index_suffixes: ClassVar[tuple[str, ...]] = (f".{INDICES}",)
    needs_initial: ClassVar[bool] = False

    @classmethod
    def parse(cls, config: Mapping[str, object]) -> "Sft":
        SFT_KEYS.check(config)
        return cls()

    def read(self, file: TensorFile, base: BaseModel, initial: TensorFile | None) -> dict[str, ModuleSource]:
        names = own_names(file, (VALUES, INDICES, "bias"), base, NOT_LINEAR)
        biased = frozenset(module for module, parts in names.items() if "bias" in parts)
        biases = StoredBiases.checked(biased, file, names, base)
        return {module: _source(biases, module) for module in sorted(names)}


def _source(biases: StoredBiases, module: str) -> ModuleSource:
    file, parts, shape = biases.file, biases.names[module], biases.base.linears[module]
    forms = biases.forms(module)
    if parts.keys() == {"bias"}:
        return ModuleSource(tensors=converted(module, forms, lambda: ModuleDelta(bias=biases.change(module))))
    check_parts(file, biases.names, module, (VALUES, INDICES))
    values = file.tensors[parts[VALUES]]
    count = values.shape[0] if values.shape else 0
    for part in (VALUES, INDICES):
        file.check_shape(parts[part], (count,), "one index for every value")

    def compute() -> ModuleDelta:
        field = f"{file.field}.{parts[INDICES]}"
        sparse = sorted_sparse(field, file.tensor(parts[INDICES]), file.tensor(parts[VALUES]), shape)
        return ModuleDelta(sparse=sparse, bias=biases.change(module))

    forms |= sparse_forms(count, values.dtype, shape)
    return ModuleSource(tensors=converted(module, forms, compute), shape=shape)
