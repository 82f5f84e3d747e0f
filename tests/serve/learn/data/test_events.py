import time
from typing import Any

import pytest

from polyad.adapters_store.feedback import Answer, Feedback, Interaction, Message, Queued
from polyad.serve.learn.data import convert

ANSWERS = (Answer(text="Here.", ended=True), Answer(text="There.", ended=False), Answer(text="Here.", ended=True))


def interaction(answers: tuple[Answer, ...] = ANSWERS) -> Interaction:
    now = time.time()
    return Interaction(
        id="r",
        tenant="public",
        adapter="support",
        version=3,
        prompt=(Message(role="user", content="Where?"),),
        answers=answers,
        user="ann",
        created=now,
        expires=now + 60,
    )


def converted(approved: bool = False, **fields: Any) -> Any:
    event = Queued(entry="1-0", feedback=Feedback(id="e", response="r", **fields))
    return convert([event], {"r": interaction()}, approved)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"thumb": "up"}, [("kto", "Here.", None, True)]),
        ({"thumb": "down", "answer": 1}, [("kto", "There.", None, False)]),
        ({"score": 5}, [("kto", "Here.", None, True)]),
        ({"score": 2}, [("kto", "Here.", None, False)]),
        ({"score": 3}, []),
        ({"comment": "hm"}, []),
        ({"correction": "Gone."}, [("sft", "Gone.", None, None), ("dpo", "Gone.", "Here.", None)]),
        ({"correction": "Gone.", "thumb": "down"}, [("sft", "Gone.", None, None), ("dpo", "Gone.", "Here.", None)]),
        ({"preferred": 1}, [("dpo", "There.", "Here.", None)]),
    ],
)
def test_each_kind_of_feedback_becomes_its_examples(fields: dict[str, Any], expected: list[Any]) -> None:
    found = converted(**fields)
    assert [(one.kind, one.answer, one.rejected, one.desirable) for one in found.examples] == expected
    assert found.poison == [] and bool(found.decisions) == (not expected)


def test_the_end_of_an_answer_that_was_cut_off_is_not_its_end() -> None:
    (better,) = converted(preferred=1).examples
    assert (better.ended, better.rejected_ended) == (False, True)


def test_liked_answers_are_taught_where_the_policy_says_so() -> None:
    assert [one.kind for one in converted(approved=True, thumb="up").examples] == ["kto", "sft"]
    assert [one.kind for one in converted(approved=True, thumb="down").examples] == ["kto"]


def test_events_without_their_interaction_are_poison() -> None:
    event = Queued(entry="1-0", feedback=Feedback(id="e", response="gone", thumb="up"))
    found = convert([event], {})
    assert found.poison == [("1-0", "its interaction is no longer kept")]


def test_examples_say_where_they_come_from() -> None:
    (example,) = converted(thumb="up", user="bob", labels=("billing",)).examples
    assert (example.event, example.response, example.version, example.users) == ("e", "r", 3, ("ann", "bob"))
    assert example.task == "billing"
