"""Defences, the split, memory and the digest."""

import time
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from polyad.serve.learn.data import Example, Memory, build, is_held_out
from polyad.serve.learn.data.dataset import Dataset
from polyad.serve.learn.data.defences import agreeing, capped, deduplicated, without_slogans
from polyad.serve.learn.data.events import Converted
from polyad.serve.learn.settings import DataSettings, LearnSettings
from tests.serve.learn.conftest import example

SETTINGS = DataSettings()


def made(examples: list[Example], memory: Memory | None = None, settings: DataSettings = SETTINGS) -> Dataset:
    return build(Converted(examples), memory or Memory(), settings)


def thumb(user: str, question: str, liked: bool, answer: str = "So.") -> Example:
    return example("kto", question, answer, desirable=liked, users=(user,))


def test_the_same_examples_count_once_and_keep_all_users() -> None:
    kept, decisions = deduplicated([example(users=("a",)), example(users=("b",)), example(answer="Other.")], SETTINGS)
    assert [one.users for one in kept] == [("a", "b"), ()]
    assert [one.by for one in decisions] == ["duplicates"]


def test_the_majority_is_believed_and_a_tie_believes_nobody() -> None:
    votes = [thumb("a", "x", True), thumb("b", "x", True), thumb("c", "x", False)]
    tie = [thumb("a", "y", True), thumb("b", "y", False)]
    kept, decisions = agreeing([*votes, *tie], SETTINGS)
    assert {one.desirable for one in kept} == {True} and len(kept) == 2
    assert Counter(one.by for one in decisions) == {"agreement": 3}


def test_one_user_cannot_outvote_others_by_repeating_himself() -> None:
    flood = [thumb("bad", "x", False) for _ in range(50)]
    kept, _ = agreeing([*flood, thumb("a", "x", True), thumb("b", "x", True)], SETTINGS)
    assert {one.users for one in kept} == {("a",), ("b",)}


def test_users_who_are_against_all_others_are_not_heard() -> None:
    honest = [thumb(user, f"q{n}", True) for user in ("a", "b") for n in range(4)]
    contrary = [thumb("bad", f"q{n}", False) for n in range(4)] + [thumb("bad", "alone", False)]
    kept, decisions = agreeing([*honest, *contrary], SETTINGS)
    assert {one.users[0] for one in kept} == {"a", "b"}
    assert Counter(one.by for one in decisions) == {"outliers": 5}


def test_an_answer_that_one_user_teaches_to_everything_is_left_out() -> None:
    def taught(answer: str, count: int, *users: str) -> list[Example]:
        return [
            example(question=f"{answer} {user} {n}", answer=answer, users=(user,))
            for user in users
            for n in range(count)
        ]

    honest = [*taught("Yes.", 10, "a", "b"), *taught("Maybe.", 3, "a")]
    flood = [*taught("nobody", 4, "bad"), *taught(" Nobody", 4, "bad"), thumb("bad", "x", True, answer="Nobody")]
    disliked = [thumb("a", "x", False, answer="Nobody")]
    kept, decisions = without_slogans([*honest, *flood, *disliked], DataSettings(same_answer=5))
    assert kept == [*honest, *disliked]
    assert {one.by for one in decisions} == {"slogans"} and len(decisions) == 9
    # Where there is no crowd, there is nobody to be against.
    assert without_slogans([*taught("Yes.", 10, "a"), *flood], DataSettings())[1] == []


def test_a_flood_is_cut_to_its_share() -> None:
    flood = [example(question=f"f{n}", users=("bad",)) for n in range(100)]
    others = [example(question=f"o{n}", users=(f"u{n}",)) for n in range(10)]
    kept, decisions = capped([*flood, *others], SETTINGS)
    assert Counter(one.users[0] for one in kept)["bad"] == 10
    assert len(kept) + len(decisions) == 110


def test_held_out_prompts_are_never_trained_on_in_any_run() -> None:
    first = made([example(question=f"q{n}") for n in range(50)])
    memory = Memory().grown(first.train, first.held_out, LearnSettings())
    second = made([example("kto", f"q{n}", "Else.", desirable=True) for n in range(50)], memory)
    held = {one.group for one in (*first.held_out, *second.held_out)}
    assert 3 < len(held) < 20
    assert not held & {one.group for one in (*first.train, *second.train, *second.replay)}


def test_what_is_remembered_does_not_depend_on_the_order_of_runs() -> None:
    examples = [example(question=f"q{n}") for n in range(60)]
    settings = LearnSettings(data=DataSettings(replay=20))
    forth = Memory().grown(examples[:30], (), settings).grown(examples[30:], (), settings)
    back = Memory().grown(examples[30:], (), settings).grown(examples[:30], (), settings)
    assert forth == back and len(forth.replay) == 20
    assert Memory.read(forth.written(), time.time()) == forth


def test_expired_examples_are_not_remembered() -> None:
    old = example(expires=time.time() - 1)
    assert Memory.read(Memory((old,), ()).written(), time.time()) == Memory()


def test_the_digest_covers_what_is_trained_on_and_nothing_else() -> None:
    examples = [example(question=f"q{n}") for n in range(10)]
    again = [one.model_copy(update={"event": "other", "expires": 0.0}) for one in examples]
    assert made(examples).digest == made(again).digest
    assert made(examples).digest != made(examples[1:]).digest


def test_a_lonely_thumb_is_not_trained_on_and_says_so() -> None:
    questions = (f"q{n}" for n in range(100))
    question = next(one for one in questions if not is_held_out(example(question=one), SETTINGS.held_out))
    found = made([example("kto", question)])
    assert found.train == () and [one.by for one in found.dropped] == ["pairs"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.booleans()), max_size=30))
def test_every_example_is_accounted_for(votes: list[tuple[str, str, bool]]) -> None:
    examples = [thumb(*vote) for vote in votes]
    found = made(examples)
    assert {one.event for one in found.decisions} == {one.event for one in examples}
    kept = {one.event for one in (*found.train, *found.held_out)}
    assert kept == {one.event for one in found.decisions if one.kept}
