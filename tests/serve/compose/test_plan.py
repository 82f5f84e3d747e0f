from collections.abc import Callable
from itertools import permutations

import pytest

from polyad.adapters_store.registry import Version
from polyad.serve.compose import Plan, Term

FIRST, SECOND = "0" * 64, "1" * 64

MakeVersion = Callable[..., Version]


@pytest.fixture
def version() -> MakeVersion:
    def make(adapter: str, number: int = 1, digest: str = FIRST, tenant: str = "acme") -> Version:
        return Version(
            tenant=tenant,
            adapter=adapter,
            number=number,
            created=0,
            digest=digest,
            size=1,
            base="base",
            rank=8,
            targets=("q_proj",),
            source="upload",
        )

    return make


def test_single_version(version: MakeVersion) -> None:
    plan = Plan.single(version("support", 3))
    assert plan.terms == (Term(version("support", 3), 1.0),)
    assert plan.versions == (version("support", 3),)
    assert plan.label == "support@v3"
    assert plan.key == f"acme/{FIRST}"


def test_blend_is_in_the_order_of_its_labels_whatever_came_first(version: MakeVersion) -> None:
    weights = [(version("tone"), 0.3), (version("support", 10, SECOND), 0.7), (version("support", 9), -1.0)]
    plans = {Plan.of(order).label for order in permutations(weights)}
    assert plans == {"support@v9*-1 + support@v10*0.7 + tone@v1*0.3"}
    assert len({Plan.of(order).key for order in permutations(weights)}) == 1


def test_empty_plan_is_the_base_model(version: MakeVersion) -> None:
    assert (Plan(()).versions, Plan(()).label) == ((), "()")
    assert Plan(()).key == Plan.of([]).key != Plan.single(version("a")).key


def test_key_is_short_and_equal_for_equal_bytes_at_equal_weights_only(version: MakeVersion) -> None:
    a, b = version("a"), version("b", digest=SECOND)
    same = [
        Plan.of([(a, 0.7), (b, 0.3)]),
        Plan.of([(version("other-name", 9), 0.7), (version("aa", digest=SECOND), 0.3)]),
    ]
    others = [
        Plan.single(a),
        Plan.single(b),
        Plan.single(version("a", tenant="globex")),
        Plan.of([(a, 0.5)]),
        Plan.of([(a, -1.0)]),
        Plan.of([(a, 0.3), (b, 0.7)]),
        Plan.of([(a, 0.7), (b, 0.30000000000000004)]),
        Plan.of([(a, 0.7), (version("b", digest=SECOND, tenant="globex"), 0.3)]),
        Plan.of([(version("a", tenant="globex"), 0.7), (version("b", digest=SECOND, tenant="globex"), 0.3)]),
        Plan.of([(a, 0.7), (version("c"), 0.3)]),
        Plan(()),
    ]
    assert len({plan.key for plan in same}) == 1
    assert len({plan.key for plan in (*same, *others)}) == 1 + len(others)
    assert all(len(plan.key) < 150 for plan in others)
    many = Plan.of([(version(f"a{n}", digest=f"{n:064x}"), 0.1) for n in range(64)])
    assert len(many.key) < 100


def test_no_tenants_name_makes_its_version_a_blend(version: MakeVersion) -> None:
    blend = Plan.of([(version("a"), 0.5)])
    assert Plan.single(version("a", tenant="blend", digest=blend.key[-64:])).key != blend.key


def test_plan_keeps_what_it_was_made_of(version: MakeVersion) -> None:
    plan = Plan.single(version("a"))
    with pytest.raises(AttributeError):
        plan.terms = ()  # type: ignore[misc]
    assert plan == Plan.single(version("a"))
    assert hash(plan) == hash(Plan.single(version("a")))
