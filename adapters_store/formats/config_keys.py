"""What each key of a config may hold, and why not more.

A key is consumed by the kind's reader, or has no effect on served output, or must be off, or is unknown. An unknown key
is a feature of a newer library: it is accepted only while it is off, and off is null, false or empty in every optional
feature that PEFT ever added.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from polyad.adapters_store.errors import InvalidAdapter

_COMMON_CONSUMED = frozenset({"peft_type", "task_type", "base_model_name_or_path"})
_COMMON_UNUSED: Mapping[str, tuple[type, ...]] = {
    "auto_mapping": (dict, type(None)),
    "inference_mode": (bool,),
    "peft_version": (str, type(None)),
    "revision": (str, type(None)),
}

# key -> (values that mean "off", why nothing else is served)
Off = Mapping[str, tuple[tuple[object, ...], str]]

MODULES_TO_SAVE: Off = {"modules_to_save": ((None, []), "modules trained in full are not supported")}


@dataclass(frozen=True, kw_only=True)
class ConfigKeys:
    """The rules of one kind, beside those for keys that all kinds have.

    `unused` are settings of training, of the file's origin, or of a step that another key switches on: key -> types.
    """

    consumed: frozenset[str] = frozenset()
    unused: Mapping[str, tuple[type, ...]]
    off: Off

    def check(self, config: Mapping[str, object]) -> None:
        """Raise InvalidAdapter for the first key that is not consumed and says something that is not served."""
        unused = {**_COMMON_UNUSED, **self.unused}
        for key, value in config.items():
            field = f"adapter_config.{key[:100]}"
            if key in self.off:
                values, reason = self.off[key]
                if not _is_one_of(value, values):
                    raise InvalidAdapter(field, value, f"{' or '.join(map(repr, values))} ({reason})")
            elif key in unused:
                if not isinstance(value, unused[key]):
                    raise InvalidAdapter(field, value, " or ".join(kind.__name__ for kind in unused[key]))
            elif key not in _COMMON_CONSUMED | self.consumed and not _is_one_of(value, (None, False, [], {})):
                raise InvalidAdapter(field, value, "no such key, or null: polyad does not know what it does")

    @property
    def known(self) -> frozenset[str]:
        """Every key that has a rule."""
        return _COMMON_CONSUMED | _COMMON_UNUSED.keys() | self.consumed | self.unused.keys() | self.off.keys()


def _is_one_of(value: object, allowed: tuple[object, ...]) -> bool:
    # 0 == False in Python, not in JSON
    return any(type(value) is type(item) and value == item for item in allowed)
