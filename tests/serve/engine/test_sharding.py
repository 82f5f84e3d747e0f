"""Each rank of a tensor-parallel group has its part of every term: together they are the whole, in float64."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from vllm.model_executor.layers.linear import (
    ColumnParallelLinear,
    LinearBase,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    ReplicatedLinear,
    RowParallelLinear,
)

from polyad.adapters_store.delta import LowRank, ModuleDelta, Sparse
from polyad.kernels.backend import select
from polyad.kernels.layer_shape import LayerShape
from polyad.kernels.linear import LinearDeltas
from polyad.serve.engine.sharding import Placement, place
from tests.kernels.oracle import Randomness, dense_change

HEAD = 4


def layer(kind: type[LinearBase], rank: int, ranks: int, **attributes: Any) -> Any:
    """A layer as vLLM makes it on one rank of a group, without a group."""
    made = kind.__new__(kind)
    torch.nn.Module.__init__(made)
    for name, value in {"tp_rank": rank, "tp_size": ranks, **attributes}.items():
        setattr(made, name, value)
    return made


def qkv(rank: int, ranks: int, heads: int, kv_heads: int, inputs: int) -> Any:
    # As in QKVParallelLinear.__init__.
    replicas = max(1, ranks // kv_heads)
    sizes = [HEAD * heads // ranks, *[HEAD * (kv_heads // ranks if ranks < kv_heads else 1)] * 2]
    return layer(
        QKVParallelLinear, rank, ranks, output_partition_sizes=sizes, num_kv_head_replicas=replicas, input_size=inputs
    )


def merged(rank: int, ranks: int, sizes: Sequence[int], inputs: int) -> Any:
    local = [size // ranks for size in sizes]
    return layer(MergedColumnParallelLinear, rank, ranks, output_partition_sizes=local, input_size=inputs)


def change(random: Randomness, outputs: int, inputs: int) -> ModuleDelta:
    """Every term at once."""
    indices = random.mask(outputs, inputs, share=0.2).flatten().nonzero().flatten().int()
    return ModuleDelta(
        low_rank=LowRank(random.numbers(3, inputs), random.numbers(outputs, 3), 0.5),
        sparse=Sparse(indices, random.numbers(len(indices)), (outputs, inputs)),
        row_scale=random.numbers(outputs),
        column_scale=random.numbers(inputs),
        bias=random.numbers(outputs),
    )


def whole(found: ModuleDelta, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """dW and db of the whole module, by a placement that cuts nothing."""
    outputs, inputs = weight.shape
    uncut = Placement("all", (range(outputs),), range(inputs), True)
    return dense_change(uncut.local(found, torch.float64), weight)


def part(placement: Placement, found: ModuleDelta, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What this rank's terms do to this rank's part of the weight."""
    rows = torch.tensor([row for rows in placement.rows for row in rows])
    local = weight[rows][:, placement.columns.start : placement.columns.stop]
    return dense_change(placement.local(found, torch.float64), local)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_column_parallel_has_rows(ranks: int) -> None:
    random = Randomness(ranks)
    found, weight = change(random, 24, 10), random.numbers(24, 10).double()
    parts = []
    for rank in range(ranks):
        one = layer(ColumnParallelLinear, rank, ranks, output_partition_sizes=[24 // ranks], input_size=10)
        (placement,) = place(one, ["m.up_proj"])
        assert placement.module == "m.up_proj"
        parts.append(part(placement, found, weight))
    dense, bias = whole(found, weight)
    assert torch.equal(torch.cat([dense for dense, _ in parts]), dense)
    assert torch.equal(torch.cat([bias for _, bias in parts]), bias)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_row_parallel_has_columns_and_the_first_rank_the_bias(ranks: int) -> None:
    random = Randomness(ranks)
    found, weight, x = change(random, 6, 16), random.numbers(6, 16).double(), random.numbers(16).double()
    total = torch.zeros(6).double()
    for rank in range(ranks):
        one = layer(RowParallelLinear, rank, ranks, output_partition_sizes=[6], input_size_per_partition=16 // ranks)
        (placement,) = place(one, ["m.down_proj"])
        dense, bias = part(placement, found, weight)
        # What vLLM sums over the ranks.
        total += dense @ x[placement.columns.start : placement.columns.stop] + bias
    dense, bias = whole(found, weight)
    torch.testing.assert_close(total, dense @ x + bias, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(("ranks", "kv_heads"), [(1, 2), (2, 2), (2, 4), (4, 2), (8, 2)])
def test_heads_of_keys_and_values_are_shared_where_there_are_too_few(ranks: int, kv_heads: int) -> None:
    random, heads, inputs = Randomness(ranks), 8, 12
    sizes = {"q_proj": HEAD * heads, "k_proj": HEAD * kv_heads, "v_proj": HEAD * kv_heads}
    found = {name: change(random, size, inputs) for name, size in sizes.items()}
    weights = {name: random.numbers(size, inputs).double() for name, size in sizes.items()}
    for rank in range(ranks):
        placements = place(qkv(rank, ranks, heads, kv_heads, inputs), [f"a.{name}" for name in sizes])
        for placement, name in zip(placements, sizes, strict=True):
            dense, bias = whole(found[name], weights[name])
            # Rank r has the query heads r * 8 / ranks and on, and the keys and values that belong to them.
            groups = heads // kv_heads
            first = rank * heads // ranks if name == "q_proj" else rank * heads // ranks // groups
            count = heads // ranks if name == "q_proj" else max(1, kv_heads // ranks)
            rows = slice(HEAD * first, HEAD * (first + count))
            assert placement.width == HEAD * count
            local_dense, local_bias = part(placement, found[name], weights[name])
            assert torch.equal(local_dense, dense[rows])
            assert torch.equal(local_bias, bias[rows])


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_module_that_the_model_keeps_fused_is_cut_in_each_part(ranks: int) -> None:
    random = Randomness(ranks)
    found, weight = change(random, 24, 10), random.numbers(24, 10).double()
    dense, bias = whole(found, weight)
    halves = []
    for rank in range(ranks):
        (placement,) = place(merged(rank, ranks, [16, 8], 10), ["m.gate_up_proj"])
        local_dense, local_bias = part(placement, found, weight)
        halves.append((local_dense.split([16 // ranks, 8 // ranks]), local_bias.split([16 // ranks, 8 // ranks])))
    for half, rows in enumerate((slice(0, 16), slice(16, 24))):
        assert torch.equal(torch.cat([parts[half] for parts, _ in halves]), dense[rows])
        assert torch.equal(torch.cat([parts[half] for _, parts in halves]), bias[rows])


def test_replicated_layer_has_everything() -> None:
    random = Randomness(1)
    found, weight = change(random, 6, 5), random.numbers(6, 5).double()
    (placement,) = place(layer(ReplicatedLinear, 3, 4, output_partition_sizes=[6], input_size=5), ["m.gate"])
    for one, all_ in zip(part(placement, found, weight), whole(found, weight), strict=True):
        assert torch.equal(one, all_)


def test_layer_of_other_parts_than_the_model_names_is_left_alone() -> None:
    assert place(merged(0, 2, [8, 8, 4, 4], 10), ["m.in_proj_qkv", "m.in_proj_z"]) == []


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_what_is_packed_needs_the_file_no_more(backend: str) -> None:
    """The delta's memory is overwritten, as a file could be that is mapped: the layer says what it said before."""
    found = change(Randomness(1), 6, 5)
    device = torch.device("cpu")
    chosen = select(backend, device, torch.float32)
    deltas = LinearDeltas(LayerShape(5, (6,), torch.float32, device, 8), 1, chosen)
    deltas.fill(0, deltas.pack([Placement("m", (range(6),), range(5), True).local(found, torch.float32)]))
    batch = chosen.batches(1, 16, device).weighted(torch.ones(3, 1))
    x, weight = Randomness(2).numbers(3, 5), Randomness(3).numbers(6, 5)

    def said() -> torch.Tensor:
        return deltas.forward(x, lambda given, bias: torch.nn.functional.linear(given, weight, bias), None, batch)

    before = said()
    for tensor in found.tensors.values():
        tensor.fill_(7)
    assert torch.equal(said(), before)
