"""Oracle 22, and what each curator does, by a scorer whose opinions are known."""

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyad.adapters_store.errors import InvalidInput
from polyad.serve.learn.data import Example, Prompt
from polyad.serve.learn.data.curators import CURATORS, curate
from polyad.serve.learn.data.curators.clear import Clear, confidence
from polyad.serve.learn.settings import Curator, CuratorName
from tests.serve.learn.conftest import example


class Opinions:
    """The log-probability of each answer, and what is answered to everything."""

    def __init__(self, values: dict[str, float], says: tuple[str, ...] = ()) -> None:
        self._values = values
        self._says = says

    def log_prob(self, prompt: Prompt, answer: str) -> tuple[float, int]:
        return self._values.get(answer, -10.0), max(1, len(answer.split()))

    def answers(self, prompt: Prompt, count: int, temperature: float) -> list[str]:
        return [self._says[n % len(self._says)] for n in range(count)]


def chosen(
    name: CuratorName, examples: list[Example], scorer: Opinions, **options: Any
) -> tuple[list[Example], list[Any]]:
    return curate(examples, [Curator(name=name, options=options)], scorer)


def test_perplexity() -> None:
    examples = [example(answer="fine"), example(answer="noise"), example(answer="known")]
    scorer = Opinions({"fine": -1.0, "noise": -20.0, "known": 0.0})
    kept, decisions = chosen("perplexity", examples, scorer, max=100.0, min=1.5)
    assert [one.answer for one in kept] == ["fine"]
    assert [(one.example, one.by) for one in decisions] == [(one.id, "perplexity") for one in examples[1:]]


def test_adaptive_threshold() -> None:
    examples = [example(answer=f"a{n}") for n in range(9)] + [example(answer="bad")]
    kept, _ = chosen("adaptive_threshold", examples, Opinions({f"a{n}": -1.0 for n in range(9)}), deviations=2.0)
    assert [one.answer for one in kept] == [f"a{n}" for n in range(9)]


@pytest.mark.parametrize(("norm", "best"), [("mean", "a long and likely answer"), ("sum", "short")])
def test_grape_keeps_one_answer_of_each_prompt(norm: str, best: str) -> None:
    examples = [example(answer="short"), example(answer="a long and likely answer"), example(question="Other?")]
    kept, _ = chosen("grape", examples, Opinions({"short": -2.0, "a long and likely answer": -3.0}), norm=norm)
    assert [one.answer for one in kept] == [best, "That."]


def test_s3ft_prefers_the_parents_own_words() -> None:
    examples = [example(answer="Paris."), example(answer="London")]
    kept, decisions = chosen("s3ft", examples, Opinions({}, ("paris",)))
    assert [one.answer for one in kept] == ["paris", "London"]
    assert [(one.kept, one.reason) for one in decisions] == [(True, "own answer")]


@given(st.integers(0, 5))
def test_clear_is_monotone_in_confidence(right: int) -> None:
    says = ("That.",) * right + ("Nothing of it",) * (5 - right)
    options = Clear.options
    less = confidence(example(), Opinions({}, says), options)
    more = confidence(example(), Opinions({}, ("That.", *says[:4])), options) if right < 5 else 1.0
    assert 0 <= less <= more <= 1


def test_clear_logs_everything_that_it_removes() -> None:
    examples = [example(answer=f"answer {n}") for n in range(6)] + [example(answer="That.")]
    kept, decisions = chosen("clear", examples, Opinions({}, ("That.",)), confidence=0.5)
    assert [one.answer for one in kept] == ["That."]
    assert {one.example for one in decisions} == {one.id for one in examples[:6]}
    assert all("confidence" in one.reason and not one.kept for one in decisions)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"settings\.data\.curators\.0"):
        chosen("grape", [], Opinions({}), norms="mean")


def test_the_server_knows_the_curators_by_name() -> None:
    assert set(CURATORS) == set(get_args(CuratorName))


def test_every_curator_takes_nothing() -> None:
    for name in get_args(CuratorName):
        assert chosen(name, [], Opinions({}, ("x",))) == ([], [])
