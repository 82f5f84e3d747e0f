"""The Triton kernels on small shapes, against dense weights in float64; test_triton.py runs this file.

The interpreter's products of bf16 are wrong (it holds them as integers), so float16 stands for 16 bits.
"""

import pytest
import torch

from polyad.kernels.backend import Backend
from polyad.kernels.layer_shape import LayerShape
from polyad.kernels.linear import LinearDeltas
from polyad.kernels.terms import Terms
from polyad.kernels.triton_batch import TritonBatches
from polyad.kernels.triton_layer import TritonLayer
from tests.kernels.oracle import KINDS, Randomness, expected

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SLOTS = 4
TOKENS = 64
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2**-9}
SHAPES = {"one": (24, (16,)), "fused": (40, (70, 8, 8)), "deep": (1100, (9, 33))}
ADDED = [kind for kind in KINDS if kind != "column_scale"]


class Case:
    def __init__(self, shape: str, dtype: torch.dtype) -> None:
        inputs, widths = SHAPES[shape]
        self.random = Randomness(inputs)
        self.shape = LayerShape(inputs, widths, dtype, DEVICE, 40)
        self.weight_OI = (self.random.numbers(sum(widths), inputs) / inputs**0.5).to(dtype)
        self.bias_O = self.random.numbers(sum(widths), dtype=dtype)
        self.deltas = LinearDeltas(self.shape, SLOTS, Backend("triton", TritonLayer, TritonBatches))
        self.batches = TritonBatches(SLOTS, TOKENS, DEVICE)
        self.slots: dict[int, list[Terms | None]] = {}

    def fill(self, slot: int, kinds: list[str], rank: int = 4, slices: slice = slice(None)) -> None:
        terms = [self.random.terms(self.shape.inputs, w, self.shape.dtype, kinds, rank) for w in self.shape.widths]
        kept = [one if index in range(len(terms))[slices] else None for index, one in enumerate(terms)]
        self.slots[slot] = kept
        self.deltas.fill(slot, self.deltas.pack(kept))

    def check(self, weights_TS: torch.Tensor) -> None:
        x_TI = self.random.numbers(len(weights_TS), self.shape.inputs, dtype=self.shape.dtype)
        plain = torch.nn.functional.linear(x_TI, self.weight_OI, self.bias_O)
        found = plain.clone().to(DEVICE)
        batch = self.batches.weighted(weights_TS)
        if batch.mask:
            self.deltas._kernel.add(found, x_TI.to(DEVICE), self.bias_O.to(DEVICE), batch)
        wanted = expected(self.shape, self.weight_OI, self.bias_O, self.slots, weights_TS, x_TI)
        worst = (found.cpu().double() - wanted).abs().max() / wanted.abs().max()
        assert worst < TOLERANCE[self.shape.dtype], worst
        unused = ~weights_TS.any(1)
        assert torch.equal(found.cpu()[unused], plain[unused])


@pytest.fixture(params=TOLERANCE, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    found: torch.dtype = request.param
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ADDED)
def test_each_kind_alone(dtype: torch.dtype, kind: str, shape: str) -> None:
    case = Case(shape, dtype)
    case.fill(0, [kind])
    case.check(torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0], [-0.5, 0, 0, 0]]))


@pytest.mark.parametrize("tokens", [1, 16, 17, 50])
def test_blends_of_mixed_ranks_and_kinds(dtype: torch.dtype, tokens: int) -> None:
    case = Case("fused", dtype)
    case.fill(0, ["low_rank"], rank=1)
    case.fill(1, ADDED, rank=17)
    case.fill(2, ["sparse", "bias"], slices=slice(1, None))
    case.check(case.random.weights(tokens, SLOTS))
    case.fill(1, ["low_rank"], rank=40, slices=slice(0, 1))
    case.deltas.fill(0, None)
    del case.slots[0]
    weights_TS = case.random.weights(tokens, SLOTS)
    weights_TS[:, 0] = 0
    case.check(weights_TS)


def test_batch_leaves_nothing_for_a_smaller_one(dtype: torch.dtype) -> None:
    case = Case("one", dtype)
    for slot in range(SLOTS):
        case.fill(slot, ["low_rank"])
    for tokens in (64, 3, 40, 1):
        case.check(case.random.weights(tokens, SLOTS))


def test_what_is_recorded_for_the_widest_batch_serves_every_later_one(dtype: torch.dtype) -> None:
    """A captured graph is such a launch: its bounds are those of the widest batch, its tensors those of the next."""
    case = Case("fused", dtype)
    case.fill(0, ADDED, rank=17)
    case.fill(2, ["low_rank"], rank=40)
    for tokens in (40, 7):
        recorded = case.batches.widest(tokens)
        weights_TS = case.random.weights(tokens, SLOTS)
        case.batches.weighted(weights_TS)  # the next batch, in the same tensors
        x_TI = case.random.numbers(tokens, case.shape.inputs, dtype=dtype)
        found = torch.nn.functional.linear(x_TI, case.weight_OI, case.bias_O).to(DEVICE)
        case.deltas._kernel.add(found, x_TI.to(DEVICE), case.bias_O.to(DEVICE), recorded)
        wanted = expected(case.shape, case.weight_OI, case.bias_O, case.slots, weights_TS, x_TI)
        assert (found.cpu().double() - wanted).abs().max() / wanted.abs().max() < TOLERANCE[dtype]
