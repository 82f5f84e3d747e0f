"""A module whose tensors are computed: their form is known before, their values come when they are written."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch

from polyad.adapters_store.delta import ModuleDelta, TensorSource
from polyad.adapters_store.delta.header import DTYPES
from polyad.adapters_store.delta.module_source import tensor_bytes
from polyad.adapters_store.errors import InvalidAdapter

Form = tuple[str, tuple[int, ...]]


def converted(module: str, forms: Mapping[str, Form], compute: Callable[[], ModuleDelta]) -> dict[str, TensorSource]:
    """The sources of tensors that `compute` yields together, by their names behind the module's.

    `forms` says dtype and shape of each. It is computed once, when the first is asked for, and nothing is kept when
    all were. Raises InvalidAdapter then if a value is not finite in its dtype.
    """
    computed: dict[str, torch.Tensor] = {}

    def pieces(part: str) -> Iterable[memoryview]:
        if part not in computed:
            computed.update(compute().tensors)
        return tensor_bytes(_stored(module, part, computed.pop(part), forms[part]))

    return {part: TensorSource(dtype, shape, partial(pieces, part)) for part, (dtype, shape) in forms.items()}


def _stored(module: str, part: str, tensor: torch.Tensor, form: Form) -> torch.Tensor:
    stored = tensor.to(DTYPES[form[0]])
    if stored.is_floating_point() and not bool(stored.isfinite().all()):
        raise InvalidAdapter(f"{module}: {part}", "NaN or infinity after conversion", "finite values")
    return stored
