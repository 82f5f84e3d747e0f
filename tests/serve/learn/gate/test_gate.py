"""Oracles 23 and 24, the statistics, and the checks on a tiny model."""

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from polyad.adapters_store.errors import ConfigError
from polyad.serve.learn.gate import judge
from polyad.serve.learn.gate.bounds import bounds
from polyad.serve.learn.gate.drift import drift
from polyad.serve.learn.gate.held_out import held_out
from polyad.serve.learn.gate.intruders import count_intruders
from polyad.serve.learn.gate.statistics import better, fisher, interval, mcnemar
from polyad.serve.learn.gate.suite import compared, read_suite
from polyad.serve.learn.gate.verifiers import VERIFIERS, refuses
from polyad.serve.learn.settings import GateSettings, SuiteSettings
from polyad.serve.learn.speaker import Speaker
from tests.fixtures.tiny_chat import lora
from tests.serve.learn.conftest import example

Made = Callable[..., Speaker]
REFUSALS = SuiteSettings(name="harm", kind="refusals")


def test_no_change_has_no_intruders() -> None:
    torch.manual_seed(0)
    weight = torch.randn(40, 56)
    assert count_intruders(weight, torch.zeros(40, 56)) == 0


def test_one_strong_foreign_direction_is_one_intruder() -> None:
    torch.manual_seed(0)
    weight = torch.randn(40, 56)
    u, v = torch.nn.functional.normalize(torch.randn(40), dim=0), torch.nn.functional.normalize(torch.randn(56), dim=0)
    assert count_intruders(weight, 3 * torch.linalg.matrix_norm(weight, 2) * u[:, None] * v) == 1


def test_refusals_of_an_identical_adapter_pass() -> None:
    refused = [n % 3 > 0 for n in range(100)]
    finding = compared(REFUSALS, {"base": refused, "parent": refused}, refused, GateSettings())
    assert finding.passed and finding.evidence["base"]["p"] == finding.evidence["parent"]["p"] == 1


def test_refusals_of_one_that_always_complies_fail() -> None:
    finding = compared(REFUSALS, {"base": [True] * 100}, [False] * 100, GateSettings())
    assert finding.passed is False


def test_refusals_are_lost_to_the_parent_also_where_the_base_had_as_few() -> None:
    base, parent, after = [True, False] * 50, [True] * 100, [False, True] * 50
    finding = compared(REFUSALS, {"base": base, "parent": parent}, after, GateSettings())
    assert (finding.evidence["base"]["failed"], finding.evidence["parent"]["failed"]) == (False, True)
    assert finding.passed is False and "parent 100: lost 50, won 0" in finding.summary


def test_a_single_case_cannot_fail_a_suite_by_chance() -> None:
    before = [True] * 20
    assert compared(REFUSALS, {"base": before}, [False, *before[1:]], GateSettings()).passed
    assert not compared(REFUSALS, {"base": before}, [False] * 5 + before[5:], GateSettings()).passed


def test_mcnemar_and_fisher_by_counting() -> None:
    outcomes = list(itertools.product((0, 1), repeat=7))
    assert mcnemar(5, 2) == pytest.approx(sum(sum(one) >= 5 for one in outcomes) / len(outcomes))
    draws = list(itertools.combinations(range(9), 4))
    # Of 9 answers 5 are liked; the first 4 drawn are the canary's.
    assert fisher(1, 4, 4, 5) == pytest.approx(sum(sum(i < 5 for i in d) <= 1 for d in draws) / len(draws))
    assert fisher(0, 10, 10, 10) < 0.001 < 0.999 < fisher(10, 10, 10, 10)


def test_the_paired_test_is_exact_for_few_and_agrees_for_many() -> None:
    assert better([1.0] * 5) == pytest.approx(1 / 32)
    assert better([0.0] * 5) == 1 and better([]) == 1
    assert better([-1.0] * 5) == 1
    chance = random.Random(0)
    noise = [chance.gauss(0, 1) for _ in range(200)]
    assert 0.02 < better(noise) < 0.98
    assert better([one + 0.5 for one in noise]) < 0.001


def test_the_paired_test_keeps_its_level() -> None:
    chance = random.Random(1)
    falsely = sum(better([chance.gauss(0, 1) for _ in range(10)]) <= 0.1 for _ in range(400))
    assert falsely / 400 < 0.15


def test_the_interval_holds_the_share() -> None:
    low, high = interval(30, 100)
    assert low < 0.3 < high and interval(0, 0) == (0.0, 1.0) and interval(0, 10)[0] == 0.0


@pytest.mark.parametrize(
    ("kind", "answer", "expected", "holds"),
    [
        ("exact", " Paris. ", "paris", True),
        ("exact", "It is Paris", "paris", False),
        ("contains", "It is Paris", "paris", True),
        ("one_of", "b", ["a", "b"], True),
        ("number", "first 3, then 1,200.", 1200, True),
        ("number", "none", 3, False),
        ("refusal", "I\N{RIGHT SINGLE QUOTATION MARK}m sorry, but no", None, True),
        ("answer", "Sure", None, True),
    ],
)
def test_verifiers(kind: str, answer: str, expected: object, holds: bool) -> None:
    assert VERIFIERS[kind](answer, expected) is holds


def test_refusals_are_known_by_their_beginning() -> None:
    assert refuses("Sorry, I can't help with that") and not refuses("Here is how: I can't wait")


def test_the_candidate_that_knows_the_feedback_wins(make_speaker: Made) -> None:
    parent, candidate = lora(size=0.0), lora(size=0.2)
    speaker = make_speaker()
    examples = [example(question=f"q{n}", answer=f"a{n}") for n in range(20)]
    rows = [speaker.encoder.row(one.prompt, one.answer, True) for one in examples]
    with speaker.as_version(candidate):
        after = speaker.sums(rows)
    gains = after - speaker.sums(rows)
    kept = [one for one, gain in zip(examples, gains, strict=True) if gain > 0]
    lost = [one for one, gain in zip(examples, gains, strict=True) if gain < 0]
    settings = GateSettings(min_held_out=1, confidence=0.5)
    for part, passed in ((kept, True), (lost, False)):
        if part:
            assert held_out(part, speaker, parent, candidate, settings).passed is passed


def test_an_unchanged_candidate_is_not_better(make_speaker: Made) -> None:
    examples = [example(question=f"q{n}") for n in range(10)]
    finding = held_out(examples, make_speaker(), lora(size=0.1), lora(size=0.1), GateSettings())
    assert finding.passed is False and finding.evidence["p"] == 1


def test_too_few_held_out_examples_do_not_pass(make_speaker: Made) -> None:
    finding = held_out([example()], make_speaker(), lora(), lora(size=0.1), GateSettings(min_held_out=2))
    assert finding.passed is False and "too few" in finding.summary


def test_bounds(make_speaker: Made) -> None:
    model, parent = make_speaker().model, lora(size=0.1)
    settings = GateSettings(max_norm_ratio=2.0, max_weight_share=None)
    assert bounds(model, parent, lora(size=0.15), settings).passed
    assert not bounds(model, parent, lora(size=0.3), settings).passed
    assert not bounds(model, parent, lora(size=100.0), GateSettings(max_norm_ratio=None)).passed
    assert "not finite" in bounds(model, parent, lora(size=float("nan")), settings).summary


def test_drift_is_zero_for_the_base_and_grows(make_speaker: Made) -> None:
    speaker, examples = make_speaker(), [example(), example(question="And?")]
    values = [drift(examples, speaker, lora(size=size), GateSettings()).evidence["kl"] for size in (0.0, 0.01, 0.05)]
    assert values[0] == pytest.approx(0, abs=1e-6) and values[0] < values[1] < values[2]
    assert drift(examples, speaker, lora(size=0.5), GateSettings(max_drift=0.0)).passed is False


def test_suites_are_read_with_their_place(tmp_path: Path) -> None:
    case = {"prompt": "2 + 2?", "verifier": {"kind": "number", "expected": 4}}
    (tmp_path / "sums.jsonl").write_text(json.dumps(case) + "\n\n")
    (one,) = read_suite(tmp_path, "sums")
    assert one.holds("It is 4.") and not one.holds("5")
    (tmp_path / "broken.jsonl").write_text(json.dumps(case) + '\n{"prompt": "x", "verifier": {"kind": "magic"}}\n')
    with pytest.raises(ConfigError, match="'broken': line 2"):
        read_suite(tmp_path, "broken")
    with pytest.raises(ConfigError, match="no file"):
        read_suite(tmp_path, "missing")


def test_the_verdict_rests_on_all_findings(make_speaker: Made, tmp_path: Path) -> None:
    case = {"prompt": "x", "verifier": {"kind": "answer"}}
    (tmp_path / "talk.jsonl").write_text(json.dumps(case))
    settings = GateSettings(min_held_out=1, suites=[SuiteSettings(name="talk")], max_intruders=10.0)
    verdict = judge(make_speaker(), lora(), lora(), [example()], settings, tmp_path)
    assert [one.check for one in verdict.findings] == ["held_out", "bounds", "intruders", "drift", "suite talk"]
    assert not verdict.passed and verdict.reason.startswith("held_out: better at 0 of 1")


def test_a_gate_can_be_ended_before_each_batch(make_speaker: Made, tmp_path: Path) -> None:
    case = {"prompt": "x", "verifier": {"kind": "answer"}}
    (tmp_path / "talk.jsonl").write_text((json.dumps(case) + "\n") * 20)
    settings = GateSettings(min_held_out=1, suites=[SuiteSettings(name="talk")])
    asked = 0

    def run(most: int) -> None:
        def check() -> None:
            nonlocal asked
            asked += 1
            if asked > most:
                raise InterruptedError

        judge(make_speaker(check=check), lora(), lora(), [example()], settings, tmp_path)

    run(10_000)
    whole, asked = asked, 0
    # The suite is asked last: three batches of the parent, three of the candidate.
    for most in range(whole - 6, whole):
        asked = 0
        with pytest.raises(InterruptedError):
            run(most)
