"""The linear layers of vLLM's model, each with the deltas in its slots.

vLLM computes every linear layer by its `quant_method`; polyad's stands around it. So the layer's own sharding,
gathering and reducing stay as they are, whatever its class.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from vllm.forward_context import get_forward_context
from vllm.lora.utils import process_packed_modules_mapping
from vllm.model_executor.layers.linear import LinearBase
from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase
from vllm.utils.torch_utils import direct_register_custom_op

from polyad.kernels.backend import Backend
from polyad.kernels.batch import Batch
from polyad.kernels.layer_shape import LayerShape
from polyad.kernels.linear import LinearDeltas
from polyad.serve.engine.sharding import Placement, place


@dataclass(eq=False)
class Step:
    """What all layers look at: the batch of the step that runs."""

    batch: Batch


class DeltaMethod(QuantizeMethodBase):
    """A layer's own method, and after it what the batch's deltas change.

    With a `name`, the layer is one opaque operation to torch.compile, which looks it up by that name.
    """

    def __init__(self, layer: LinearBase, deltas: LinearDeltas, step: Step, name: str | None = None) -> None:
        self._inner = layer.quant_method
        self._product = partial(self._inner.apply, layer)
        self._deltas = deltas
        self._step = step
        self._name = name

    def apply(self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        if self._name is None:
            return self.compute(x, bias)
        return torch.ops.vllm.polyad_linear(x, bias, self._name, sum(self._deltas.shape.widths))

    def compute(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        batch = self._step.batch
        if not batch.mask:
            return self._product(x, bias)
        return self._deltas.forward(x, self._product, bias, batch)

    def create_weights(self, *args: Any, **kwargs: Any) -> None:
        self._inner.create_weights(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _polyad_linear(x: torch.Tensor, bias: torch.Tensor | None, name: str, outputs: int) -> torch.Tensor:
    method: DeltaMethod = get_forward_context().no_compile_layers[name]
    return method.compute(x, bias)


def _polyad_linear_shape(x: torch.Tensor, bias: torch.Tensor | None, name: str, outputs: int) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], outputs))


direct_register_custom_op(op_name="polyad_linear", op_func=_polyad_linear, fake_impl=_polyad_linear_shape)


@dataclass(frozen=True, eq=False)
class AdaptedLayer:
    """A layer of the engine, and where the modules of the model lie in it."""

    deltas: LinearDeltas
    placements: tuple[Placement, ...]


def adapt(
    model: Any,
    slots: int,
    max_rank: int,
    backend: Backend,
    dtype: torch.dtype,
    step: Step,
    compiled: dict[str, Any] | None = None,
) -> dict[str, AdaptedLayer]:
    """Give every linear layer of the language model its slots; the layers by their names in the engine.

    `compiled` is where vLLM finds the layers of a model that torch.compile has been through; None if there is none.
    """
    packed = process_packed_modules_mapping(model)
    adapted = {}
    for name, layer in _linears(model):
        parent, _, last = name.rpartition(".")
        modules = [f"{parent}.{part}" if parent else part for part in packed.get(last, [last])]
        placements = place(layer, modules)
        if not placements:
            continue
        shape = LayerShape(
            inputs=len(placements[0].columns),
            widths=tuple(placement.width for placement in placements),
            dtype=dtype,
            device=next(layer.parameters()).device,
            max_rank=max_rank,
        )
        deltas = LinearDeltas(shape, slots, backend, recorded=compiled is not None)
        opaque = None if compiled is None else f"{name}.polyad"
        layer.quant_method = DeltaMethod(layer, deltas, step, opaque)
        if compiled is not None:
            compiled[f"{name}.polyad"] = layer.quant_method
        adapted[name] = AdaptedLayer(deltas, tuple(placements))
    return adapted


def _linears(model: Any) -> Iterator[tuple[str, LinearBase]]:
    # Towers of multimodal models see other tokens than the batch's.
    mapping = model.get_mm_mapping() if hasattr(model, "get_mm_mapping") else None
    foreign = tuple([*mapping.tower_model, *mapping.connector]) if mapping is not None else ()
    for name, module in model.named_modules():
        if isinstance(module, LinearBase) and module.quant_method is not None and not name.startswith(foreign):
            yield name, module
