"""Kinds that have no file format of PEFT's: the tensors in the file say which modules are changed.

Their names carry PEFT's prefix, `base_model.model.<module>.<part>`; their config needs no key but `peft_type`.
"""

from collections.abc import Collection

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.errors import InvalidAdapter
from polyad.adapters_store.formats.config_keys import MODULES_TO_SAVE, ConfigKeys
from polyad.adapters_store.formats.tensor_file import TensorFile
from polyad.adapters_store.formats.tensor_names import Names, tensor_names

OWN_KEYS = ConfigKeys(unused={}, off=MODULES_TO_SAVE)


def own_names(file: TensorFile, parts: Collection[str], base: BaseModel, others: str = "") -> Names:
    """The names of the tensors by module and part.

    Raises InvalidAdapter for other tensors, for none, or for modules that are no linear layers; `others` says why
    those of another sort are not served.
    """
    allowed = "base_model.model.<module>." + " or .".join(parts)
    names = tensor_names(file, {part: part.replace(".", r"\.") for part in parts}, allowed)
    if not names:
        raise InvalidAdapter(file.field, "no tensors", allowed)
    for module, found in sorted(names.items()):
        if module not in base.linears:
            what = f"linear layers of base model {base.name!r} other than the output head"
            raise InvalidAdapter(file.field, next(iter(found.values())), "; ".join(filter(None, (what, others))))
    return names
