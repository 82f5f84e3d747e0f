import pytest
import torch

from polyad.kernels.batch import Batch, Batches

CPU = torch.device("cpu")


def test_groups_are_the_tokens_of_each_slot_in_use() -> None:
    weights_TS = torch.tensor([[0, 1.0, 0, 0], [0, 0, 0, 0], [0, 0.5, 0, -2], [0, 0, 0, 0.25]])
    batch = Batch(weights_TS)
    found = [(group.slot, group.tokens_G.tolist(), group.weights_G.tolist()) for group in batch.groups]
    assert found == [(1, [0, 2], [1, 0.5]), (3, [2, 3], [-2, 0.25])]
    assert all(group.tokens_G.dtype == torch.int32 for group in batch.groups)
    assert (batch.tokens, batch.slots, batch.mask) == (4, 4, 0b1010)


@pytest.mark.parametrize("tokens", [0, 3])
def test_batch_that_uses_no_slot(tokens: int) -> None:
    batch = Batch(torch.zeros(tokens, 2))
    assert (batch.tokens, batch.mask, batch.groups) == (tokens, 0, [])


def test_compositions_become_weights() -> None:
    compositions = {7: {0: 1.0}, 9: {0: 0.3, 2: 0.7}, 4: {}}
    batch = Batches(3, 8, CPU).of(compositions, (9, 0, 7, 4, 9, 1_000_000))
    wanted = [[0.3, 0, 0.7], [0, 0, 0], [1, 0, 0], [0, 0, 0], [0.3, 0, 0.7], [0, 0, 0]]
    assert torch.equal(batch.weights_TS, torch.tensor(wanted))


def test_weights_keep_every_bit_of_a_float32() -> None:
    weight = 0.1 + 0.2
    assert Batches(1, 8, CPU).of({1: {0: weight}}, (1,)).weights_TS.item() == torch.tensor(weight).item()
