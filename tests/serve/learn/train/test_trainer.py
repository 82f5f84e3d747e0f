"""Oracles 20 and 21; a training that was killed goes on as if nothing had been; bad ends have reasons."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from polyad.adapters_store.delta import Delta
from polyad.adapters_store.errors import InvalidInput
from polyad.serve.learn.data import Dataset, Example
from polyad.serve.learn.settings import OptionName, TrainSettings
from polyad.serve.learn.speaker import Speaker
from polyad.serve.learn.train import Trainer, TrainingFailed, delta_of
from polyad.serve.learn.train.options import OPTIONS
from polyad.serve.learn.train.options.averaging import mean
from polyad.serve.learn.train.options.hft import chosen
from polyad.serve.learn.train.options.masked_thought import hide
from polyad.serve.learn.train.parent import low_rank_parts, trainable
from polyad.serve.learn.train.tokens import Row
from tests.fixtures.tiny_chat import lora
from tests.serve.learn.conftest import example

Made = Callable[..., Speaker]


class Killed(Exception):
    pass


def nothing(step: int, steps: int, loss: float) -> None:
    pass


def mixed(flipped: bool = False) -> list[Example]:
    """All kinds of examples; `flipped` are what is liked and what is not."""
    taught = [example("sft", f"Say {n}", f"It is {n}") for n in range(6)]
    better = [example("dpo", f"Take {n}", f"Yes {n}", rejected=f"No {n}") for n in range(4)]
    judged = [example("kto", f"Is {n}?", f"So {n}", desirable=(n % 2 == 0) != flipped) for n in range(8)]
    return [*taught, *better, *judged]


def dataset(examples: list[Example], replay: list[Example] | None = None) -> Dataset:
    return Dataset(tuple(examples), tuple(replay or ()), (), ())


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings(**{"epochs": 2, "batch": 4, "learning_rate": 1e-2, "save_every": 2, **changes})


def train(speaker: Speaker, folder: Path, data: Dataset, watch: Any = nothing, **changes: Any) -> Trainer:
    folder.mkdir(exist_ok=True)
    trainer = Trainer(speaker.model, speaker.encoder, data, settings(**changes), round=changes.pop("round", 1))
    trainer.train(folder, watch)
    return trainer


def same(one: Delta, two: Delta) -> bool:
    first, second = low_rank_parts(one), low_rank_parts(two)
    return all(torch.equal(first[m].a, second[m].a) and torch.equal(first[m].b, second[m].b) for m in first)


def test_all_kinds_are_learnt_together(make_speaker: Made, tmp_path: Path) -> None:
    """What judgements do is small beside what the answers that are taught do to all others: so they are also flipped,
    and only the difference counts."""
    gained = []
    for flipped in (False, True):
        speaker, data = make_speaker(), mixed(flipped)
        rows = [speaker.encoder.row(one.prompt, one.answer, True) for one in data]
        before = speaker.sums(rows)
        trainer = train(speaker, tmp_path / str(flipped), dataset(data), epochs=6, learning_rate=5e-3)
        gained.append(speaker.sums(rows) - before)
        assert trainer.curve[-1][0] == trainer.steps
        assert (gained[-1][:6] > 0).all(), "taught answers are less likely than before"
    of_judgement = (gained[0] - gained[1])[10:]
    assert of_judgement[0::2].mean() > of_judgement[1::2].mean()


def test_the_same_seed_gives_the_same_bytes(make_speaker: Made, tmp_path: Path) -> None:
    data = dataset(mixed())
    speakers = [make_speaker(), make_speaker(), make_speaker()]
    for number, speaker in enumerate(speakers):
        train(speaker, tmp_path / str(number), data, seed=number // 2)
    first, second, third = (delta_of(speaker.model) for speaker in speakers)
    assert same(first, second) and not same(first, third)


@pytest.mark.parametrize("options", [{}, {"averaging": {"last": 2, "every": 1}, "hft": {}, "ggpo": {}, "ewc": {}}])
def test_a_killed_training_goes_on_as_if_nothing_had_been(make_speaker: Made, tmp_path: Path, options: Any) -> None:
    data = dataset(mixed())
    whole, broken = make_speaker(), make_speaker()
    train(whole, tmp_path / "whole", data, options={k: v for k, v in options.items() if k != "ggpo"})

    def kill(step: int, steps: int, loss: float) -> None:
        if step == 5:
            raise Killed

    chosen_options = {k: v for k, v in options.items() if k != "ggpo"}
    with pytest.raises(Killed):
        train(broken, tmp_path / "broken", data, kill, options=chosen_options)
    again, seen = make_speaker(), []
    resumed = train(again, tmp_path / "broken", data, lambda step, *_: seen.append(step), options=chosen_options)
    assert seen[0] == 5 and resumed.curve[0][0] == 1
    assert same(delta_of(again.model), delta_of(whole.model))


def test_a_checkpoint_of_other_data_is_not_used(make_speaker: Made, tmp_path: Path) -> None:
    train(make_speaker(), tmp_path, dataset(mixed()))
    seen: list[int] = []
    train(make_speaker(), tmp_path, dataset(mixed()[:6]), lambda step, *_: seen.append(step))
    assert seen[0] == 1


def test_a_loss_that_is_no_number_ends_it(make_speaker: Made, tmp_path: Path) -> None:
    speaker = make_speaker(lora(size=float("inf")))
    with pytest.raises(TrainingFailed, match="the loss is nan at step 1"):
        train(speaker, tmp_path, dataset(mixed()[:6]))


def test_divergence_ends_it(make_speaker: Made, tmp_path: Path) -> None:
    # So strong an anchor that each step overshoots.
    anchored = {"kl_to_parent": {"strength": 1e5}}
    with pytest.raises(TrainingFailed, match="it diverges: the loss is about"):
        train(make_speaker(lora(size=0.1)), tmp_path, dataset(mixed()[:6]), options=anchored)


def test_settings_of_options_that_do_not_exist_are_refused(make_speaker: Made) -> None:
    speaker = make_speaker()
    with pytest.raises(InvalidInput, match=r"settings\.train\.options\.hft: got 'shares'"):
        Trainer(speaker.model, speaker.encoder, dataset(mixed()), settings(options={"hft": {"shares": 0.5}}))


def test_the_server_knows_the_options_by_name() -> None:
    assert set(OPTIONS) == set(get_args(OptionName))


def test_frozen_halves_keep_every_bit(make_speaker: Made, tmp_path: Path) -> None:
    speaker = make_speaker(lora(size=0.1))
    before = {name: one.detach().clone() for name, one in trainable(speaker.model).items()}
    trainer = train(speaker, tmp_path, dataset(mixed()), options={"hft": {}})
    frozen = before.keys() - trainer.parameters.keys()
    assert 0.4 < len(frozen) / len(before) < 0.6
    after = dict(speaker.model.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert any(not torch.equal(before[name], after[name]) for name in trainer.parameters)


def test_the_next_round_trains_other_halves(make_speaker: Made) -> None:
    names = list(trainable(make_speaker().model))
    assert chosen(names, 0.5, 0, 1) == chosen(names, 0.5, 0, 1) != chosen(names, 0.5, 0, 2)
    attention = {name.rpartition(".lora_")[0] for name in chosen(names, 0.5, 0, 1) if "layers.0.self_attn" in name}
    assert len(attention) == 2


def test_masked_thought_hides_answers_alone_and_keeps_what_is_to_be_said() -> None:
    row = Row((5, 6, 7), tuple(range(10, 60)), tuple(range(10, 60)))
    masked = hide(row, 0.3, 0, random.Random(0))
    assert masked.prompt == row.prompt and masked.answer == row.answer
    assert 0 < sum(one == 0 for one in masked.seen) < 50
    assert all(seen in (0, said) for seen, said in zip(masked.seen, masked.answer, strict=True))
    assert hide(row, 0.0, 0, random.Random(0)) == row


def test_masked_thought_without_hiding_is_plain(make_speaker: Made, tmp_path: Path) -> None:
    speakers = [make_speaker(), make_speaker()]
    train(speakers[0], tmp_path / "a", dataset(mixed()))
    train(speakers[1], tmp_path / "b", dataset(mixed()), options={"masked_thought": {"share": 0.0}})
    assert same(*(delta_of(speaker.model) for speaker in speakers))


@pytest.mark.parametrize(("option", "strong"), [("ewc", 1e5), ("kl_to_parent", 1e2)])
def test_anchors_hold_the_model_near_its_parent(make_speaker: Made, tmp_path: Path, option: str, strong: float) -> None:
    def moved(strength: float) -> float:
        speaker = make_speaker(lora(size=0.1))
        trainer = train(
            speaker, tmp_path / f"{option}-{strength}", dataset(mixed()[:6]), options={option: {"strength": strength}}
        )
        now = {name: one.detach() for name, one in trainer.parameters.items()}
        return sum(float((now[name] - trainer.parent[name]).norm() ** 2) for name in now)

    assert moved(strong) < moved(0.0)


def test_noise_is_there_while_training_alone(make_speaker: Made, tmp_path: Path) -> None:
    speakers = [make_speaker(lora(size=0.1)), make_speaker(lora(size=0.1))]
    data = dataset(mixed()[:6])
    plain = train(speakers[0], tmp_path / "a", data)
    noisy = train(speakers[1], tmp_path / "b", data, options={"ggpo": {"sigma": 0.5}})
    assert plain.curve[0][1] != noisy.curve[0][1]
    row = speakers[1].encoder.row(mixed()[0].prompt, "It is 0", True)
    assert torch.equal(speakers[1].sums([row]), speakers[1].sums([row]))


def test_the_mean_of_deltas_is_not_the_mean_of_factors() -> None:
    one, two = lora(seed=1, size=0.5), lora(seed=2, size=0.5)
    found = low_rank_parts(mean([one, two]))
    for module, part in found.items():
        parts = [low_rank_parts(delta)[module] for delta in (one, two)]
        whole = sum(p.scale * p.b.double() @ p.a.double() for p in parts) / 2
        best = torch.linalg.svd(whole)
        cut = best.U[:, :4] * best.S[:4] @ best.Vh[:4]
        torch.testing.assert_close(part.scale * part.b.double() @ part.a.double(), cut, rtol=1e-4, atol=1e-5)
        of_factors = parts[0].scale * (parts[0].b + parts[1].b) / 2 @ (parts[0].a + parts[1].a) / 2
        assert (of_factors - cut).norm() > 0.1 * cut.norm()


def test_versions_with_other_terms_do_not_go_on() -> None:
    from polyad.adapters_store.delta import ModuleDelta
    from polyad.adapters_store.errors import Unsupported

    with pytest.raises(Unsupported, match="bias"):
        low_rank_parts(Delta({"a": ModuleDelta(bias=torch.zeros(4))}))
