"""A layer with deltas in its slots, against dense weights in float64: every kind, every backend, blends, odd shapes."""

import random
from collections.abc import Callable, Sequence
from itertools import combinations

import pytest
import torch

from polyad.kernels import cpu
from polyad.kernels.backend import Backend, select
from polyad.kernels.layer_shape import LayerShape
from polyad.kernels.linear import LinearDeltas
from polyad.kernels.terms import Terms
from tests.kernels.oracle import KINDS, Randomness, expected

CPU = torch.device("cpu")
SLOTS = 5
# Of the largest output: sums in float32; one rounding of the base's product and one of the sum in bf16.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-7}
SHAPES = {
    "one": (24, (16,)),
    "fused": (40, (24, 8, 8)),
    "odd": (21, (7, 33)),
    "wide": (16, (130,)),
    "narrow": (130, (1, 2)),
}

Slices = Sequence[Terms | None]


class Case:
    """One layer, its base weights, and deltas in some of its slots."""

    def __init__(self, backend: Backend, dtype: torch.dtype, shape: str, bias: bool = True, seed: int = 0) -> None:
        inputs, widths = SHAPES[shape]
        self.random = Randomness(seed)
        self.shape = LayerShape(inputs, widths, dtype, CPU, 64)
        self.weight_OI = (self.random.numbers(sum(widths), inputs) / inputs**0.5).to(dtype)
        self.bias_O = self.random.numbers(sum(widths), dtype=dtype) if bias else None
        self.deltas = LinearDeltas(self.shape, SLOTS, backend)
        self.slots: dict[int, Slices] = {}
        self._batches = backend.batches(SLOTS, 1024, CPU)

    def slices(self, kinds: Sequence[str], rank: int = 4) -> Slices:
        return [
            self.random.terms(self.shape.inputs, width, self.shape.dtype, kinds, rank) for width in self.shape.widths
        ]

    def fill(self, slot: int, slices: Slices) -> None:
        self.slots[slot] = slices
        self.deltas.fill(slot, self.deltas.pack(slices))

    def product(self, x: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight_OI, bias_O)

    def forward(self, x: torch.Tensor, weights_TS: torch.Tensor) -> torch.Tensor:
        return self.deltas.forward(x, self.product, self.bias_O, self._batches.weighted(weights_TS))

    def check(self, weights_TS: torch.Tensor) -> None:
        x_TI = self.random.numbers(len(weights_TS), self.shape.inputs, dtype=self.shape.dtype)
        found = self.forward(x_TI, weights_TS)
        wanted = expected(self.shape, self.weight_OI, self.bias_O, self.slots, weights_TS, x_TI)
        worst = (found.double() - wanted).abs().max() / wanted.abs().max()
        assert worst < TOLERANCE[self.shape.dtype], worst
        plain = self.product(x_TI, self.bias_O)
        unused = ~weights_TS.any(1)
        assert torch.equal(found[unused], plain[unused])


@pytest.fixture(params=["reference", *cpu.supported()])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """The reference, and native code for each instruction set that this machine has."""
    if request.param == "reference":
        return select("reference", CPU, torch.float32)
    monkeypatch.setattr(cpu, "INSTRUCTIONS", cpu.supported()[request.param])
    return select("cpu", CPU, torch.float32)


@pytest.fixture(params=TOLERANCE, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    found: torch.dtype = request.param
    return found


@pytest.fixture
def case(backend: Backend, dtype: torch.dtype) -> Callable[..., Case]:
    return lambda *args, **kwargs: Case(backend, dtype, *args, **kwargs)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_alone(case: Callable[..., Case], kind: str, shape: str) -> None:
    layer = case(shape)
    layer.fill(0, layer.slices([kind]))
    layer.check(torch.tensor([[1.0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [-0.5, 0, 0, 0, 0]]))


@pytest.mark.parametrize("kinds", list(combinations(KINDS, 2)), ids="+".join)
def test_each_pair_of_kinds_in_one_delta_and_in_a_blend(case: Callable[..., Case], kinds: tuple[str, str]) -> None:
    layer = case("fused")
    layer.fill(0, layer.slices(kinds))
    layer.fill(1, layer.slices(kinds[:1]))
    layer.fill(2, layer.slices(kinds[1:]))
    layer.check(torch.tensor([[1, 0, 0, 0, 0], [0, 0.7, 0.3, 0, 0], [0, 0, -2, 0, 0], [0.2, 1, 1, 0, 0]]))


@pytest.mark.parametrize("tokens", [1, 2, 7, 16, 100, 300, 513])
@pytest.mark.parametrize("shape", ["fused", "odd"])
def test_any_number_of_tokens_with_any_blends(case: Callable[..., Case], shape: str, tokens: int) -> None:
    layer = case(shape, seed=tokens)
    for slot, rank in enumerate((1, 4, 16, 37)):
        layer.fill(slot, layer.slices(KINDS, rank))
    layer.check(layer.random.weights(tokens, SLOTS))


def test_slices_that_a_delta_leaves_alone(case: Callable[..., Case]) -> None:
    layer = case("fused")
    first, second, third = layer.slices(KINDS)
    layer.fill(0, [first, None, None])
    layer.fill(1, [None, second, Terms()])
    layer.fill(2, [None, None, None])
    layer.fill(3, [None, None, third])
    layer.check(layer.random.weights(20, SLOTS))


def test_column_scale_that_all_slices_share(case: Callable[..., Case]) -> None:
    """What a changed norm weight is: the input is scaled once, and the base's product is made once."""
    layer = case("fused")
    products = 0

    def counted(x: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
        nonlocal products
        products += 1
        return torch.nn.functional.linear(x, layer.weight_OI, bias_O)

    layer.product = counted  # type: ignore[method-assign]
    shared_I = layer.random.numbers(layer.shape.inputs)
    layer.fill(0, [Terms(column_scale_I=shared_I)] * 3)
    x_TI = layer.random.numbers(4, layer.shape.inputs, dtype=layer.shape.dtype)
    layer.forward(x_TI, torch.tensor([[1.0, 0, 0, 0, 0]] * 4))
    assert products == 1
    layer.check(layer.random.weights(20, SLOTS))


def test_without_a_base_bias(case: Callable[..., Case]) -> None:
    layer = case("odd", bias=False)
    layer.fill(0, layer.slices(KINDS))
    layer.check(layer.random.weights(20, SLOTS))


def test_slots_are_filled_emptied_and_filled_again(case: Callable[..., Case]) -> None:
    layer = case("fused")
    chance = random.Random(7)
    for step in range(40):
        slot = chance.randrange(SLOTS - 1)
        if slot in layer.slots and chance.random() < 0.4:
            del layer.slots[slot]
            layer.deltas.fill(slot, None)
        else:
            layer.fill(slot, layer.slices(chance.sample(KINDS, chance.randint(1, 5)), chance.randint(1, 20)))
        weights_TS = layer.random.weights(9, SLOTS)
        weights_TS[:, [slot for slot in range(SLOTS) if slot not in layer.slots]] *= step % 2
        layer.check(weights_TS)


def test_mixed_batch_is_each_token_alone(case: Callable[..., Case]) -> None:
    layer = case("fused")
    for slot in range(SLOTS - 1):
        layer.fill(slot, layer.slices(KINDS, 8))
    weights_TS = layer.random.weights(33, SLOTS)
    x_TI = layer.random.numbers(33, layer.shape.inputs, dtype=layer.shape.dtype)
    together = layer.forward(x_TI, weights_TS)
    alone = torch.cat([layer.forward(x_TI[t : t + 1], weights_TS[t : t + 1]) for t in range(33)])
    torch.testing.assert_close(together, alone, atol=TOLERANCE[layer.shape.dtype] * float(alone.abs().max()), rtol=0)


@pytest.mark.parametrize("ranks", [(15, 16, 1), (3, 1, 2), (16, 8, 8)], ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_token_that_is_not_finite_changes_no_other(
    case: Callable[..., Case], bad: float, ranks: tuple[int, ...]
) -> None:
    """Also where numbers are multiplied in pairs, and the last of an odd row lies beside the first of the next."""
    layer = case("fused")
    low_rank = ["low_rank"]
    for slot in range(2):
        slices = [layer.slices(low_rank, rank)[place] for place, rank in enumerate(ranks)]
        layer.fill(slot, slices)
    x_TI = layer.random.numbers(9, layer.shape.inputs, dtype=layer.shape.dtype)
    weights_TS = torch.tensor([[0.5, -1.0, 0, 0, 0]] * 9)
    wanted = layer.forward(x_TI, weights_TS)
    x_TI[1::2] = bad
    found = layer.forward(x_TI, weights_TS)
    assert not found[1::2].isfinite().any()
    assert torch.equal(found[::2], wanted[::2])


def test_nothing_added_is_nothing_changed(case: Callable[..., Case]) -> None:
    """B = 0 is the base model, bit for bit."""
    layer = case("fused")
    slices = layer.slices(["low_rank"])
    layer.fill(0, [Terms(a_RI=terms.a_RI, b_OR=torch.zeros_like(terms.b_OR)) for terms in slices if terms is not None])  # type: ignore[arg-type]
    x_TI = layer.random.numbers(5, layer.shape.inputs, dtype=layer.shape.dtype)
    weights_TS = torch.zeros(5, SLOTS)
    weights_TS[:, 0] = 1
    assert torch.equal(layer.forward(x_TI, weights_TS), layer.product(x_TI, layer.bias_O))


def test_input_with_a_batch_dimension(case: Callable[..., Case]) -> None:
    layer = case("fused")
    layer.fill(0, layer.slices(KINDS))
    x_TI = layer.random.numbers(6, layer.shape.inputs, dtype=layer.shape.dtype)
    weights_TS = layer.random.weights(6, SLOTS)
    assert torch.equal(layer.forward(x_TI.unsqueeze(0), weights_TS)[0], layer.forward(x_TI, weights_TS))


def test_fewer_tokens_than_the_batch_are_refused(case: Callable[..., Case]) -> None:
    layer = case("one")
    layer.fill(0, layer.slices(["low_rank"]))
    with pytest.raises(ValueError, match="x: got 2 tokens, the batch has 3"):
        layer.forward(torch.zeros(2, 24, dtype=layer.shape.dtype), torch.ones(3, SLOTS))


def test_rows_behind_the_batch_are_left_alone(case: Callable[..., Case]) -> None:
    layer = case("one")
    layer.fill(0, layer.slices(["low_rank"]))
    x_TI = layer.random.numbers(6, 24, dtype=layer.shape.dtype)
    found = layer.forward(x_TI, torch.ones(4, SLOTS))
    assert torch.equal(found[4:], layer.product(x_TI, layer.bias_O)[4:])
    assert not torch.equal(found[:4], layer.product(x_TI, layer.bias_O)[:4])
