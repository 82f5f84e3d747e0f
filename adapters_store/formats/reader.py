"""What every kind of adapter can do: say what it is, and turn its files into the modules of a delta."""

from collections.abc import Mapping
from typing import Protocol

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.delta import ModuleSource
from polyad.adapters_store.formats.tensor_file import TensorFile


class Reader(Protocol):
    """A config that was understood to its last key."""

    @property
    def kind(self) -> str:
        """What the version's record says that it is: lora, dora, ia3 and so on."""

    @property
    def index_suffixes(self) -> tuple[str, ...]:
        """How the names of the tensors end that hold integers; all others hold floats."""

    @property
    def needs_initial(self) -> bool:
        """Whether it is a change of weights that were changed before training, by factors in a second file."""

    def read(self, file: TensorFile, base: BaseModel, initial: TensorFile | None) -> Mapping[str, ModuleSource]:
        """Match the tensors of the file with the config and the base model; values are read when they are written.

        `initial` is there exactly if it is needed. Raises InvalidAdapter, and InvalidInput for base weights that cannot
        be used; both also when the values are asked for.
        """
