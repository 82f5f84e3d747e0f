"""SHiRA (Bhardwaj et al. 2024, arXiv:2406.13175), as PEFT stores it.

`shira_weight` holds the values of a sparse dW, `shira_indices` their rows and columns, of shape [2, values].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.delta import ModuleDelta, ModuleSource
from polyad.adapters_store.errors import InvalidAdapter
from polyad.adapters_store.formats.config_keys import MODULES_TO_SAVE, ConfigKeys
from polyad.adapters_store.formats.conversion import converted
from polyad.adapters_store.formats.selection import Selection
from polyad.adapters_store.formats.sparse_values import sorted_sparse, sparse_forms
from polyad.adapters_store.formats.tensor_file import TensorFile
from polyad.adapters_store.formats.tensor_names import check_modules, check_parts, tensor_names

SHIRA_KEYS = ConfigKeys(
    consumed=frozenset({"target_modules"}),
    unused={
        "fan_in_fan_out": (bool,),
        "init_weights": (bool,),
        "mask_type": (str,),
        "r": (int,),
        "random_seed": (int, type(None)),
    },
    off=MODULES_TO_SAVE,
)

_INDICES, _VALUES = "shira_indices", "shira_weight"
_ALLOWED = "base_model.model.<module>.shira_weight and .shira_indices"


@dataclass(frozen=True)
class Shira:
    selection: Selection
    kind: ClassVar[str] = "shira"
    index_suffixes: ClassVar[tuple[str, ...]] = (f".{_INDICES}",)
    needs_initial: ClassVar[bool] = False

    @classmethod
    def parse(cls, config: Mapping[str, object]) -> "Shira":
        SHIRA_KEYS.check(config)
        return cls(Selection.parse(config))

    def read(self, file: TensorFile, base: BaseModel, initial: TensorFile | None) -> dict[str, ModuleSource]:
        adapted = self.selection.modules(base)
        names = tensor_names(file, {_INDICES: _INDICES, _VALUES: _VALUES}, _ALLOWED)
        check_modules(file, names, adapted, base)
        sources = {}
        for module in adapted:
            if module in base.transposed:
                raise InvalidAdapter("adapter_config.target_modules", module, "linear layers that PEFT has SHiRA for")
            check_parts(file, names, module, [_INDICES, _VALUES])
            sources[module] = _source(file, names[module], module, base.linears[module])
        return sources


def _source(file: TensorFile, parts: Mapping[str, str], module: str, shape: tuple[int, int]) -> ModuleSource:
    values = file.tensors[parts[_VALUES]]
    count = values.shape[0] if values.shape else 0
    file.check_shape(parts[_VALUES], (count,), "one dimension")
    file.check_shape(parts[_INDICES], (2, count), "a row and a column for every value")

    def compute() -> ModuleDelta:
        rows, columns = file.tensor(parts[_INDICES]).long()
        for axis, places in enumerate((rows, columns)):
            if count and not 0 <= int(places.min()) <= int(places.max()) < shape[axis]:
                bounds = [int(places.min()), int(places.max())]
                raise InvalidAdapter(f"{file.field}.{parts[_INDICES]}", bounds, f"0 to {shape[axis] - 1}")
        flat = rows * shape[1] + columns
        return ModuleDelta(
            sparse=sorted_sparse(f"{file.field}.{parts[_INDICES]}", flat, file.tensor(parts[_VALUES]), shape)
        )

    return ModuleSource(tensors=converted(module, sparse_forms(count, values.dtype, shape), compute), shape=shape)
