"""Oracles 18 and 19, and the signs of all losses."""

import math

import pytest
import torch

from polyad.adapters_store.errors import InvalidInput
from polyad.serve.learn.train import losses
from polyad.serve.learn.train.options.task_weights import task_loss

ZERO = torch.tensor(0.0)


def test_dpo_begins_at_ln_2() -> None:
    said = torch.tensor([-3.0, -7.5]), torch.tensor([-4.0, -1.0])
    assert losses.dpo(*said, *said, beta=0.1).item() == pytest.approx(math.log(2), abs=1e-7)


@pytest.mark.parametrize("kind", ["sigmoid", "robust", "ipo"])
def test_dpo_raises_the_chosen_and_lowers_the_rejected(kind: str) -> None:
    chosen, rejected = torch.tensor([-3.0], requires_grad=True), torch.tensor([-3.0], requires_grad=True)
    reference, lengths = torch.tensor([-3.0]), (torch.tensor([3]), torch.tensor([3]))
    losses.dpo(chosen, rejected, reference, reference, 0.1, kind, 0.1, lengths).backward()
    assert chosen.grad is not None and rejected.grad is not None
    assert chosen.grad.item() < 0 < rejected.grad.item()


@pytest.mark.parametrize("liked", [True, False])
def test_kto_raises_what_is_liked_and_lowers_what_is_not(liked: bool) -> None:
    said = torch.tensor([-3.0], requires_grad=True)
    losses.kto(said, torch.tensor([-3.5]), torch.tensor([liked]), ZERO, 0.1).backward()
    assert said.grad is not None
    assert (said.grad.item() < 0) == liked and said.grad.item() != 0


def test_the_baseline_of_kto_is_never_negative_and_has_no_gradient() -> None:
    said = torch.tensor([-9.0, -8.0], requires_grad=True)
    reference = torch.tensor([-3.0, -3.0])
    assert losses.kto_baseline(said, reference).item() == 0
    above = losses.kto_baseline(reference.clone().requires_grad_(), said)
    assert above.item() == pytest.approx(5.5) and not above.requires_grad


def test_kto_refuses_a_batch_of_one() -> None:
    with pytest.raises(InvalidInput, match="at least two"):
        losses.kto_baseline(torch.tensor([-1.0]), torch.tensor([-1.0]))


def test_the_cases_of_task_weights() -> None:
    sums, counts, tasks = torch.tensor([10.0, 2.0, 9.0]), torch.tensor([10, 1, 3]), ["a", "a", "b"]
    assert task_loss(sums, counts, tasks, 1, {}).item() == pytest.approx(21 / 14)
    assert task_loss(sums, counts, tasks, 2, {}).item() == pytest.approx((1 + 2 + 3) / 3)
    assert task_loss(sums, counts, tasks, 3, {"b": 3.0}).item() == pytest.approx((12 / 11 + 3 * 3) / 4)
    assert task_loss(sums, counts, tasks, 4, {"b": 3.0}).item() == pytest.approx((1.5 + 3 * 3) / 4)
