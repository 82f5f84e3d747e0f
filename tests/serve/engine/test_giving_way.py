"""A tenant that goes through many adapters replaces its own."""

from collections import Counter, OrderedDict
from random import Random

from polyad.serve.engine.giving_way import first_to_give_way

SLOTS = 8


def use(held: "OrderedDict[str, str]", name: str, tenant: str) -> None:
    """Least recently used first; the slots that others used are idle."""
    if name not in held and len(held) == SLOTS:
        victim = first_to_give_way(held.items(), Counter([*held.values(), tenant]))
        assert victim is not None
        del held[victim]
    held[name] = tenant
    held.move_to_end(name)


def test_a_thousand_adapters_of_one_leave_the_others_theirs() -> None:
    held: OrderedDict[str, str] = OrderedDict()
    for name in ("a1", "a2", "b1"):
        use(held, name, name[0])
    for number in range(1000):
        use(held, f"flood-{number}", "flood")
    assert {"a1", "a2", "b1"} <= held.keys()


def test_alone_it_is_the_least_recently_used() -> None:
    held: OrderedDict[str, str] = OrderedDict()
    plain: OrderedDict[str, str] = OrderedDict()
    chance = Random(5)
    for _ in range(500):
        name = f"n{chance.randrange(20)}"
        use(held, name, "one")
        if name not in plain and len(plain) == SLOTS:
            plain.popitem(last=False)
        plain[name] = "one"
        plain.move_to_end(name)
        assert held == plain


def test_who_holds_too_much_gives_way_to_who_holds_too_little() -> None:
    held = OrderedDict((f"a{number}", "a") for number in range(SLOTS))
    for number in range(SLOTS):
        use(held, f"b{number}", "b")
    assert Counter(held.values()) == {"a": SLOTS // 2, "b": SLOTS // 2}


def test_none_where_none_may_go() -> None:
    assert first_to_give_way([], Counter("a")) is None
