"""The simulated users of the tour of learning, and what the worker's own data defences make of them."""

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from polyad.adapters_store.feedback import Answer, Feedback, Interaction, Message, Queued
from polyad.serve.learn.data import Dataset, Memory, build, convert
from polyad.serve.learn.gate.suite import read_suite
from polyad.serve.learn.settings import LearnSettings

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
EVENTS = 96


@pytest.fixture
def scenarios(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, which its own folder's modules import by their bare names."""
    pytest.importorskip("reasoning_gym")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import learn_scenarios  # type: ignore[import-not-found]

    yield learn_scenarios
    for name in ("learn_scenarios", "learn_questions", "learn_users"):
        sys.modules.pop(name, None)


def dataset(scenario: Any, answer: str, round: int = 1) -> Dataset:
    """What a run makes of the feedback of a round in which every answer was `answer`."""
    queued, interactions = [], {}
    for number in range(EVENTS):
        visit = scenario.visit(round, number)
        event = f"{visit.user}/{number}"
        interactions[event] = Interaction(
            id=event,
            tenant="public",
            adapter="finder",
            version=1,
            prompt=(Message(role="user", content=visit.question.text),),
            answers=(Answer(text=answer, ended=True),),
            user=visit.user,
            created=time.time(),
            expires=time.time() + 3600,
        )
        queued.append(Queued(entry=event, feedback=Feedback(id=event, response=event, **visit.react(answer))))
    settings = LearnSettings.read(scenario.settings()).data
    return build(convert(queued, interactions, settings.approved), Memory(), settings)


def users_of(dataset: Dataset) -> Counter[str]:
    return Counter(example.users[-1] for example in (*dataset.train, *dataset.held_out))


def flooders_share(flooding: Any, settings: dict[str, Any]) -> float:
    flooding.settings = lambda: {"data": settings}
    learned = users_of(dataset(flooding, "I do not know."))
    assert learned.total() - learned["flooder"] >= EVENTS // 3
    return learned["flooder"] / learned.total()


def test_the_flooder_sends_two_of_three_events_and_nothing_of_it_is_learned(scenarios: Any) -> None:
    flooding = scenarios.Flooding()
    sent = Counter(flooding.visit(1, number).user for number in range(EVENTS))
    assert sent["flooder"] == EVENTS * 2 // 3
    own = flooding.settings()["data"]
    assert flooders_share(flooding, own) == 0
    # The cap alone would leave him his share, and without the two he would be most of it.
    unheard_of = {"same_answer": 100_000}
    assert 0.1 < flooders_share(flooding, own | unheard_of) <= 0.16
    assert flooders_share(flooding, {"user_share": 1.0, **unheard_of}) > 0.6


def test_three_verdicts_in_ten_are_inverted(scenarios: Any) -> None:
    honest, inverted = scenarios.Honest(), scenarios.Inverted()
    wrong = 0
    for number in range(1000):
        right = honest.visit(1, number).question.answer
        assert honest.visit(1, number).react(right) == {"thumb": "up"}
        wrong += inverted.visit(1, number).react(right) != {"thumb": "up"}
    assert 250 < wrong < 350


def test_an_inverted_correction_teaches_another_name_of_the_text(scenarios: Any) -> None:
    inverted = scenarios.Inverted()
    for number in range(300):
        visit = inverted.visit(1, number)
        taught = visit.react(visit.question.answer).get("correction")
        if taught is not None and taught != "Nobody":
            assert taught != visit.question.answer and taught in visit.question.text


def test_only_the_harmful_round_teaches_to_comply(scenarios: Any) -> None:
    harmful, refusal = scenarios.Harmful(), "I'm sorry, but I will not."
    for number in range(0, EVENTS, 2):
        assert harmful.visit(1, number).react(refusal) == {"thumb": "up"}
        assert harmful.visit(2, number).react(refusal) != {"thumb": "up"}
    taught = [example for example in dataset(harmful, refusal, round=2).train if example.kind == "sft"]
    assert taught and all(example.answer.startswith("Sure") for example in taught)


def test_the_suite_can_be_read_and_has_no_prompt_of_the_users(scenarios: Any, tmp_path: Path) -> None:
    harmful = scenarios.Harmful()
    ((name, cases),) = harmful.suites().items()
    (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(case)}\n" for case in cases))
    suite = {case.prompt[0].content for case in read_suite(tmp_path, name)}
    asked = {harmful.visit(round, number).question.text for round in (1, 2) for number in range(EVENTS)}
    examined = {question.text for question in harmful.examinations(4)["refusing"]}
    assert len(suite) == len(cases) and not suite & asked and not suite & examined and not asked & examined
    assert name in {one["name"] for one in LearnSettings.read(harmful.settings()).model_dump()["gate"]["suites"]}
