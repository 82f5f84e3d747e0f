"""A layer's method around the layer's own: as it runs, and as torch.compile sees it."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.config import CompilationConfig, VllmConfig
from vllm.forward_context import set_forward_context

from polyad.kernels.backend import select
from polyad.kernels.batch import Batches
from polyad.kernels.layer_shape import LayerShape
from polyad.kernels.linear import LinearDeltas
from polyad.serve.engine.layers import DeltaMethod, Step
from tests.kernels.oracle import Randomness

CPU = torch.device("cpu")
SHAPE = LayerShape(12, (8, 4), torch.float32, CPU, 8)


class Inner:
    """A layer's own method."""

    own = "something that others read from it"

    def apply(self, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return torch.nn.functional.linear(x, layer.weight, bias)


class Layer:
    def __init__(self, name: str | None = None) -> None:
        self.random = Randomness(3)
        self.inner = SimpleNamespace(weight=self.random.numbers(12, 12), quant_method=Inner())
        self.deltas = LinearDeltas(SHAPE, 2, select("cpu", CPU, torch.float32), recorded=name is not None)
        self.batches: Batches = select("cpu", CPU, torch.float32).batches(2, 64, CPU)
        self.step = Step(self.batches.of({}, ()))
        layer: Any = self.inner
        self.method = DeltaMethod(layer, self.deltas, self.step, name)

    def fill(self, *kinds: str) -> None:
        terms = [self.random.terms(12, width, torch.float32, kinds) for width in SHAPE.widths]
        self.deltas.fill(0, self.deltas.pack(terms))

    def use(self, *weights: float) -> None:
        self.step.batch = self.batches.weighted(torch.tensor([[weight, 0.0] for weight in weights]))


@pytest.fixture
def compiled() -> Iterator[Layer]:
    layer = Layer("layer.polyad")
    config = VllmConfig(compilation_config=CompilationConfig())
    config.compilation_config.static_forward_context["layer.polyad"] = layer.method
    with set_forward_context(None, config):
        yield layer


def test_what_others_read_from_the_layers_method_is_there() -> None:
    assert Layer().method.own == Inner.own


def test_layer_without_deltas_is_the_layer_itself() -> None:
    layer = Layer()
    layer.fill("low_rank")
    x, bias = layer.random.numbers(3, 12), layer.random.numbers(12)
    plain = layer.inner.quant_method.apply(layer.inner, x, bias)
    assert torch.equal(layer.method.apply(layer.inner, x, bias), plain)
    layer.use(1, 0, 1)
    changed = layer.method.apply(layer.inner, x, bias)
    assert torch.equal(changed[1], plain[1])
    assert not torch.allclose(changed[0], plain[0])


def test_compiled_once_it_follows_every_later_batch_and_slot(compiled: Layer) -> None:
    """A graph that looked at the batch while it was traced would go on with what it saw."""
    bias = compiled.random.numbers(12)
    traced = torch.compile(
        lambda x: compiled.method.apply(compiled.inner, x, bias) + 1, backend="eager", fullgraph=True, dynamic=True
    )
    x = compiled.random.numbers(4, 12)
    plain = torch.nn.functional.linear(x, compiled.inner.weight, bias) + 1
    assert torch.equal(traced(x), plain)
    compiled.fill("low_rank", "bias")
    compiled.use(1, 0, -0.5, 0)
    with torch.compiler.set_stance("fail_on_recompile"):
        found = traced(x)
        assert torch.equal(found, compiled.method.compute(x, bias) + 1)
        assert not torch.allclose(found[0], plain[0])
        compiled.use(0, 0, 0, 0)
        assert torch.equal(traced(x), plain)


def test_scale_of_input_columns_is_refused_where_launches_are_recorded(compiled: Layer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only with --enforce-eager"):
        compiled.fill("column_scale")
    Layer().fill("column_scale")
