"""Labels are few, whatever names come; the busy ones have them."""

from collections import Counter
from random import Random

from polyad.serve.engine.busiest import OTHER, Busiest

LABELS = 10


def test_names_are_as_many_as_there_are_labels() -> None:
    ended: list[str] = []
    busiest = Busiest(LABELS, ended.append)
    given = {busiest.label(f"name-{number}") for number in range(LABELS)}
    assert given == {f"name-{number}" for number in range(LABELS)}
    assert {busiest.label(f"late-{number}") for number in range(1000)} == {OTHER}
    assert ended == []


def test_the_busy_ones_have_them_in_the_end() -> None:
    """Zipf's law over a thousand names, after strangers took all the labels."""
    ended: list[str] = []
    busiest = Busiest(LABELS, ended.append)
    for number in range(LABELS):
        busiest.label(f"stranger-{number}")
    chance = Random(3)
    names = [f"name-{rank}" for rank in range(1000)]
    asked = chance.choices(names, [1 / (rank + 1) for rank in range(1000)], k=20_000)
    for name in asked:
        busiest.label(name)
    top = [name for name, _ in Counter(asked).most_common(LABELS // 2)]
    assert [busiest.current(name) for name in top] == top
    assert {f"stranger-{number}" for number in range(LABELS)} <= set(ended)


def test_what_is_kept_is_bounded() -> None:
    busiest = Busiest(LABELS, lambda _: None)
    for number in range(100_000):
        busiest.label(f"name-{number}")
    assert len(busiest._named) + len(busiest._rest) < 6 * LABELS


def test_without_labels_all_are_together() -> None:
    busiest = Busiest(0, lambda _: None)
    assert {busiest.label("a") for _ in range(10)} == {OTHER}
