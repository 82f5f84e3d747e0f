"""Padding and cutting change nothing: against transformers' own loss, one row at a time."""

from collections.abc import Callable

import pytest
import torch

from polyad.serve.learn.speaker import Speaker
from polyad.serve.learn.train import losses
from polyad.serve.learn.train.log_probs import log_probs
from tests.fixtures.tiny_chat import lora
from tests.serve.learn.conftest import example

TEXTS = [("Hi", "Hello."), ("A much longer question, is it not?", "No"), ("x", "A longer answer to a short question")]


def test_sums_are_those_of_each_row_alone(make_speaker: Callable[..., Speaker]) -> None:
    speaker = make_speaker(lora(size=0.3))
    rows = [speaker.encoder.row(example(question=q).prompt, a, True) for q, a in TEXTS]
    together = speaker.sums(rows)
    for row, found in zip(rows, together, strict=True):
        ids = torch.tensor([[*row.prompt, *row.answer]])
        labels = ids.clone()
        labels[:, : len(row.prompt)] = -100
        with torch.no_grad():
            mean = speaker.model(input_ids=ids, labels=labels).loss
        assert float(found) == pytest.approx(-float(mean) * len(row.answer), rel=1e-4)


def test_sft_is_the_mean_over_all_tokens(make_speaker: Callable[..., Speaker]) -> None:
    speaker = make_speaker(lora(size=0.3))
    rows = [speaker.encoder.row(example(question=q).prompt, a, True) for q, a in TEXTS]
    with torch.no_grad():
        loss = losses.sft(log_probs(speaker.model, rows, speaker.encoder.padding))
    assert float(loss) == pytest.approx(
        -float(speaker.sums(rows).sum()) / sum(len(row.answer) for row in rows), rel=1e-5
    )


def test_the_end_is_learnt_only_where_the_answer_ended(make_speaker: Callable[..., Speaker]) -> None:
    encoder = make_speaker().encoder
    prompt = example().prompt
    assert encoder.row(prompt, "No", True).answer == (*encoder.row(prompt, "No", False).answer, 1)


def test_long_prompts_lose_their_beginning(make_speaker: Callable[..., Speaker]) -> None:
    encoder = make_speaker(max_length=20).encoder
    row = encoder.row(example(question="q" * 100).prompt, "No", True)
    assert row.length == 20 and row.answer == encoder.row(example().prompt, "No", True).answer
