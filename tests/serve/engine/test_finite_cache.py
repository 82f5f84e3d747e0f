"""What a request left in a block says nothing to the next, by vLLM's own attention."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import vllm._custom_ops as ops
from vllm.v1.attention.backends import cpu_attn

from polyad.serve.engine.finite_cache import FiniteCacheRunner, finite

HEADS, SIZE, BLOCK, TOKENS = 4, 64, 16, 5


def answered(left: float, dtype: torch.dtype, queries: int) -> torch.Tensor:
    """Attention over five tokens in a block whose rest holds what another request left."""
    generator = torch.Generator().manual_seed(0)
    isa = cpu_attn._get_attn_isa(dtype, BLOCK, SIZE)
    keys, values = (torch.zeros(8, HEADS, BLOCK, SIZE, dtype=dtype) for _ in range(2))

    @finite
    def update(layer: Any, key: torch.Tensor, value: torch.Tensor, slots: torch.Tensor) -> None:
        ops.cpu_attn_reshape_and_cache(key, value, keys, values, slots, isa)

    before = torch.full((BLOCK - TOKENS, HEADS, SIZE), left, dtype=dtype)
    update(None, torch.zeros_like(before), before, torch.arange(TOKENS, BLOCK) + 2 * BLOCK)
    key, value, query = (torch.randn(TOKENS, HEADS, SIZE, generator=generator).to(dtype) for _ in range(3))
    update(None, key, value, torch.arange(TOKENS) + 2 * BLOCK)
    starts = torch.tensor([0, queries], dtype=torch.int32)
    lengths = torch.tensor([TOKENS], dtype=torch.int32)
    plan = ops.cpu_attn_get_scheduler_metadata(1, HEADS, HEADS, SIZE, lengths, dtype, starts, True, -1, isa, True)
    output = torch.zeros(queries, HEADS, SIZE, dtype=dtype)
    blocks = torch.tensor([[2, 0]], dtype=torch.int32)
    ops.cpu_attention_with_kv_cache(
        query[-queries:].contiguous(), keys, values, output, starts, lengths, SIZE**-0.5, True, None, -1, blocks, 0.0,
        plan, None,
    )  # fmt: skip
    return output


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("queries", [TOKENS, 1])
@pytest.mark.parametrize("left", [torch.nan, torch.inf, -torch.inf])
def test_the_next_request_says_what_it_says_alone(left: float, queries: int, dtype: torch.dtype) -> None:
    assert torch.equal(answered(left, dtype, queries), answered(0.0, dtype, queries))


def test_a_value_that_is_a_number_is_written_as_it_is() -> None:
    written: list[torch.Tensor] = []
    value = torch.tensor([1.0, -2.5, 3e38])
    finite(lambda layer, key, value: written.append(value))(None, None, value)
    assert torch.equal(written[0], value)


def test_every_layer_with_a_cache_writes_so() -> None:
    class Model:
        def load_model(self) -> None:
            self.impl = SimpleNamespace(do_kv_cache_update=lambda layer, key, value: value)
            layers = {"a": SimpleNamespace(impl=self.impl), "b": SimpleNamespace(impl=object()), "moe": object()}
            self.compilation_config = SimpleNamespace(static_forward_context=layers)

    class Runner(FiniteCacheRunner, Model):
        pass

    runner = Runner()
    runner.load_model()
    assert hasattr(runner.impl.do_kv_cache_update, "__wrapped__")
