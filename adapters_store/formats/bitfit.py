"""BitFit (Ben Zaken et al. 2021, arXiv:2106.10199): nothing but biases are changed.

A format of polyad's own: `peft_type` BITFIT, and for each module `base_model.model.<module>.bias` of shape [out], which
takes the place of the base's bias. db = new - old; a module without a bias gets one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.delta import ModuleDelta, ModuleSource
from polyad.adapters_store.formats.conversion import converted
from polyad.adapters_store.formats.own_kind import OWN_KEYS, own_names
from polyad.adapters_store.formats.stored_bias import StoredBiases
from polyad.adapters_store.formats.tensor_file import TensorFile

NOT_LINEAR = "the biases of norms and others are no change of a linear layer"


@dataclass(frozen=True)
class BitFit:
    kind: ClassVar[str] = "bitfit"
    index_suffixes: ClassVar[tuple[str, ...]] = ()
    needs_initial: ClassVar[bool] = False

    @classmethod
    def parse(cls, config: Mapping[str, object]) -> "BitFit":
        OWN_KEYS.check(config)
        return cls()

    def read(self, file: TensorFile, base: BaseModel, initial: TensorFile | None) -> dict[str, ModuleSource]:
        names = own_names(file, ("bias",), base, NOT_LINEAR)
        biases = StoredBiases.checked(frozenset(names), file, names, base)
        return {module: _source(biases, module) for module in sorted(names)}


def _source(biases: StoredBiases, module: str) -> ModuleSource:
    return ModuleSource(
        tensors=converted(module, biases.forms(module), lambda: ModuleDelta(bias=biases.change(module)))
    )
