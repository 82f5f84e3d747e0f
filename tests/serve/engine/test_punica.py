"""The batch wrapper against the dense formula in float64, and against vLLM's own CPU code."""

from collections.abc import Sequence

import pytest
import torch
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from polyad.serve.engine.punica import SlotWrapper

INPUTS = 20
SLICES = (12, 5, 5)
SLOTS = 4
MAX_RANK = 8
# Engine ids as the scheduler gives them; 0 is a token of the base model.
A, B, C, D = 1_000_001, 1_000_002, 1_000_003, 1_000_004
# Rank of each slice by version; 0 where it leaves the slice alone.
RANKS = {A: (8, 8, 8), B: (3, 0, 1), C: (0, 0, 0), D: (1, 2, 0)}

BATCHES = {
    "one version": [A] * 6,
    "one token": [B],
    "base only": [0] * 6,
    "base around": [0, 0, A, A, A, 0],
    "runs": [A, A, 0, B, B, B, D, D],
    "scattered": [A, B, 0, A, D, B, 0, A, C],
    "version without factors here": [C] * 4,
    "all slots": [D, C, B, A],
}


def numbers(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


class Layer:
    """A layer of several slices, with the versions' factors in its slots."""

    def __init__(self, layout: Sequence[int | None], dtype: torch.dtype, seed: int = 0) -> None:
        self.factors: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self.a = tuple(torch.zeros(SLOTS, 1, MAX_RANK, INPUTS, dtype=dtype) for _ in SLICES)
        self.b = tuple(torch.zeros(SLOTS, 1, width, MAX_RANK, dtype=dtype) for width in SLICES)
        for slot, version in enumerate(layout):
            for part, width in enumerate(SLICES if version else ()):
                rank = RANKS[version or 0][part]
                a = numbers(rank, INPUTS, seed=seed + slot * 10 + part, dtype=dtype)
                b = numbers(width, rank, seed=seed + slot * 10 + part + 5, dtype=dtype)
                self.a[part][slot, 0, :rank], self.b[part][slot, 0, :, :rank] = a, b
                self.factors.setdefault(version or 0, []).append((a, b))

    def tell(self, wrapper: SlotWrapper, layout: Sequence[int | None]) -> None:
        for slot, version in enumerate(layout):
            for part, stacked in enumerate(self.a):
                wrapper.set_rank(stacked, slot, RANKS[version][part] if version else 0)

    def dense(self, y: torch.Tensor, x: torch.Tensor, batch: Sequence[int]) -> torch.Tensor:
        result = y.double().clone()
        for token, version in enumerate(batch):
            terms = [b.double() @ (a.double() @ x[token].double()) for a, b in self.factors.get(version, ())] or [
                torch.zeros(sum(SLICES), dtype=torch.float64)
            ]
            result[token] += torch.cat(terms)
        return result


def mapped(wrapper: PunicaWrapperCPU, batch: Sequence[int], layout: Sequence[int | None]) -> None:
    mapping = LoRAMapping(tuple(batch), tuple(batch), is_prefill=True)
    wrapper.update_metadata(mapping, list(layout), SLOTS + 1, 100)


@pytest.mark.parametrize("layout", [(A, B, C, D), (D, None, A, None), (None, C, B, A)], ids=str)
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_token_gets_its_own_version(
    dtype: torch.dtype, batch: Sequence[int], layout: Sequence[int | None]
) -> None:
    batch = [version if version in layout else 0 for version in batch]
    wrapper = SlotWrapper(64, 16, "cpu")
    layer = Layer(layout, dtype)
    layer.tell(wrapper, layout)
    mapped(wrapper, batch, layout)
    x, y = numbers(len(batch), INPUTS, seed=1, dtype=dtype), numbers(len(batch), sum(SLICES), seed=2, dtype=dtype)
    before, expected = y.clone(), layer.dense(y, x, batch)
    wrapper.add_lora_linear(y, x, layer.a, layer.b, 1.0, SLICES)
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 0.15}[dtype]
    torch.testing.assert_close(y.double(), expected, atol=tolerance, rtol=tolerance)
    untouched = [token for token, version in enumerate(batch) if not sum(RANKS.get(version, ()))]
    assert torch.equal(y[untouched], before[untouched])


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())
def test_vllms_own_code_computes_the_same(batch: Sequence[int]) -> None:
    layout = (A, B, C, D)
    ours, theirs = SlotWrapper(64, 16, "cpu"), PunicaWrapperCPU(64, 16, "cpu")
    layer = Layer(layout, torch.float32)
    layer.tell(ours, layout)
    # vLLM 0.32 takes the last slot for tokens of the base model (index -1): give it an empty one.
    padded = [tuple(torch.cat((part, torch.zeros_like(part[:1]))) for part in side) for side in (layer.a, layer.b)]
    x, y = numbers(len(batch), INPUTS, seed=1), numbers(len(batch), sum(SLICES), seed=2)
    mine, stock = y.clone(), y.clone()
    mapped(ours, batch, layout)
    ours.add_lora_linear(mine, x, layer.a, layer.b, 1.0, SLICES)
    mapped(theirs, batch, layout)
    theirs.add_lora_linear(stock, x, padded[0], padded[1], 1.0, SLICES)
    torch.testing.assert_close(mine, stock, atol=1e-4, rtol=1e-4)


def test_layers_do_not_share_ranks() -> None:
    """The same slot holds factors of other ranks in other layers."""
    wrapper = SlotWrapper(64, 16, "cpu")
    first, second = Layer((A, None, None, None), torch.float32), Layer((None, None, None, B), torch.float32, seed=50)
    first.tell(wrapper, (A, None, None, None))
    second.tell(wrapper, (None, None, None, B))
    x, y = numbers(2, INPUTS, seed=1), numbers(2, sum(SLICES), seed=2)
    mapped(wrapper, [A, B], (A, None, None, B))
    for layer, version in ((first, A), (second, B)):
        result = y.clone()
        wrapper.add_lora_linear(result, x, layer.a, layer.b, 1.0, SLICES)
        expected = layer.dense(y, x, [version if version == mine else 0 for mine in (A, B)])
        torch.testing.assert_close(result.double(), expected, atol=1e-4, rtol=1e-4)


def test_slot_that_changes_hands_is_computed_at_its_new_rank() -> None:
    wrapper = SlotWrapper(64, 16, "cpu")
    layer = Layer((A, B, None, None), torch.float32)
    layer.tell(wrapper, (A, B, None, None))
    mapped(wrapper, [A, B], (A, B, None, None))
    layer.a[0][0], layer.b[0][0] = 0, 0
    layer.a[0][0, 0, :1], layer.b[0][0, 0, :, :1] = 1, 1
    for part, stacked in enumerate(layer.a):
        wrapper.set_rank(stacked, 0, 1 if part == 0 else 0)
    mapped(wrapper, [D, D], (D, B, None, None))
    x, y = numbers(2, INPUTS, seed=1), torch.zeros(2, sum(SLICES))
    wrapper.add_lora_linear(y, x, layer.a, layer.b, 1.0, SLICES)
    expected = torch.zeros(2, sum(SLICES))
    expected[:, : SLICES[0]] = x.sum(1, keepdim=True)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


def test_batched_activations_are_flattened() -> None:
    """As vLLM's Transformers backend passes them: a batch dimension before the tokens."""
    wrapper = SlotWrapper(64, 16, "cpu")
    layer = Layer((A, B, C, D), torch.float32)
    layer.tell(wrapper, (A, B, C, D))
    mapped(wrapper, [A, 0, B], (A, B, C, D))
    x, y = numbers(3, INPUTS, seed=1), numbers(3, sum(SLICES), seed=2)
    expected = layer.dense(y, x, [A, 0, B])
    result = y.clone().unsqueeze(0)
    wrapper.add_lora_linear(result, x.unsqueeze(0), layer.a, layer.b, 1.0, SLICES)
    torch.testing.assert_close(result[0].double(), expected, atol=1e-4, rtol=1e-4)
