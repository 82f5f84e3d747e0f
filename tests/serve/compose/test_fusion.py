"""What `fuse(...)` becomes: streams with plans of their own, a method, and errors that say what is allowed."""

import pytest

from polyad.adapters_store.errors import Conflict, InvalidInput, UnknownModel, Unsupported
from polyad.adapters_store.registry import Composition, Snapshot, Version
from polyad.adapters_store.registry.records import Header
from polyad.kernels.fusion.method import MeanProbabilities, Search, contrastive, mean_log_probabilities, proxy, static
from polyad.serve.compose import FusedStreams, Plan, Resolver, parse

TENANT, BASE, FINGERPRINT = "public", "llama", "f" * 64
NAMES = ("a", "b", "c")
SAVED = {
    "half": "a*0.5",
    "team": "fuse(a, b; mode=mean)",
    "team-2": "team",
    "loop": "loop-2",
    "loop-2": "fuse(loop, a)",
}


@pytest.fixture
def resolver() -> Resolver:
    owned = {"tenant": TENANT, "created": 0}
    headers = [Header(name=name, revision=1, aliases={"production": 1}, pins={}, **owned) for name in NAMES]
    made = {"size": 1, "base": FINGERPRINT, "rank": 8, "targets": ("q_proj",), "source": "upload", **owned}
    versions = [Version(adapter=name, number=1, digest=f"{index}" * 64, **made) for index, name in enumerate(NAMES)]
    saved = [Composition(name=name, expression=text, revision=1, **owned) for name, text in SAVED.items()]
    return Resolver(Snapshot.build("birth", 1, headers, versions, saved), TENANT, [BASE], FINGERPRINT)


def fused(resolver: Resolver, model: str) -> FusedStreams:
    plan = resolver.plan(model)
    assert plan.fusion is not None
    return plan.fusion


@pytest.mark.parametrize(
    ("model", "streams", "method"),
    [
        ("fuse(a, b)", ["()", "a@v1", "b@v1"], Search()),
        ("fuse(a, b; mode=dlf, high=1, step=0.25)", ["()", "a@v1", "b@v1"], Search(0, 0.25, 5)),
        ("fuse(a*0.5, b*0.3; mode=static)", ["()", "a@v1", "b@v1"], static([0.5, 0.3])),
        ("fuse(a*-1; mode=static)", ["()", "a@v1"], static([-1])),
        ("fuse(a*3, b; mode=mean)", ["a@v1", "b@v1"], MeanProbabilities((0.75, 0.25))),
        (
            "fuse(a, b; mode=mean_log, temperature=2)",
            ["a@v1", "b@v1"],
            mean_log_probabilities((0.5, 0.5), 2),
        ),
        ("fuse(a, b; mode=proxy, alpha=1.5)", ["()", "a@v1", "b@v1"], proxy(1.5)),
        ("fuse(a, (); mode=contrastive)", ["a@v1", "()"], contrastive()),
        ("fuse(a, b, c; mode=joint, rho=0.5)", ["()", "a@v1", "b@v1", "c@v1"], Search(rho=0.5)),
        ("fuse(a + b*0.5, half; mode=static)", ["()", "a@v1 + b@v1*0.5", "a@v1*0.5"], static([1, 1])),
        ("team", ["a@v1", "b@v1"], MeanProbabilities((0.5, 0.5))),
        ("team-2", ["a@v1", "b@v1"], MeanProbabilities((0.5, 0.5))),
    ],
)
def test_fusion_is_streams_and_a_method(resolver: Resolver, model: str, streams: list[str], method: object) -> None:
    found = fused(resolver, model)
    assert [stream.label for stream in found.streams] == streams
    assert found.method == method


def test_label_names_versions_weights_and_options(resolver: Resolver) -> None:
    text = "fuse(a*0.5, b + c*0.25; temperature=2, mode=static)"
    assert resolver.plan(text).label == "fuse(a@v1*0.5, b@v1 + c@v1*0.25; mode=static, temperature=2)"


def test_versions_are_those_of_all_streams_and_bounded(resolver: Resolver) -> None:
    plan = resolver.plan("fuse(a + b, b - c)")
    assert [one.adapter for one in plan.versions] == ["a", "b", "c"]
    narrow = Resolver(resolver._snapshot, TENANT, [BASE], FINGERPRINT, max_versions=2)
    assert narrow.plan("fuse(a + b, b)")
    with pytest.raises(InvalidInput, match="got '3 versions', allowed: at most 2"):
        narrow.plan("fuse(a, b, c)")


def test_keys_tell_methods_streams_and_order_apart(resolver: Resolver) -> None:
    models = ["fuse(a, b)", "fuse(b, a)", "fuse(a, b; step=0.2)", "fuse(a, b; mode=joint)", "fuse(a, c)", "a + b", "a"]
    assert len({resolver.plan(model).key for model in models}) == len(models)
    assert resolver.plan("fuse(a, b)").key == resolver.plan("fuse(a@v1, b; mode=dlf)").key


def test_one_expert_under_a_dynamic_rule_is_refused_with_the_reason(resolver: Resolver) -> None:
    for mode in ("dlf", "joint"):
        with pytest.raises(InvalidInput, match="with one expert on the same base the dynamic rule always finds that"):
            resolver.plan(f"fuse(a; mode={mode})")
        assert resolver.plan(f"fuse(a; mode={mode}, single=plain)") == resolver.plan("a")
    assert resolver.plan("fuse(a + b*0.5; single=plain)") == resolver.plan("a + b*0.5")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("fuse(a, b; mode=best)", "got 'mode=best' in fuse(a, b; mode=best), allowed: one of static, mean, mean_log"),
        ("fuse(a, b; mode=1)", "got 'mode=1'"),
        (
            "fuse(a, b; rho=1)",
            "got 'rho=1' in fuse(a, b; rho=1), allowed: with mode=dlf: mode, single, low, high, step",
        ),
        ("fuse(a, b; step=0)", "got 'step=0' in fuse(a, b; step=0), allowed: a number from 0.001 to 10"),
        ("fuse(a, b; step=0.01)", "at most 64 values from low to high, this makes 201"),
        ("fuse(a, b; low=3)", "allowed: no more than high=2"),
        ("fuse(a, b; step=word)", "allowed: a number from 0.001 to 10"),
        ("fuse(a, b; temperature=0)", "allowed: a number from 0.05 to 20"),
        ("fuse(a, b; mode=static, step=1)", "allowed: with mode=static: mode, temperature"),
        ("fuse(a, b; single=best)", "allowed: one of plain"),
        ("fuse(a; mode=proxy)", "got '1 experts' in fuse(a; mode=proxy), allowed: 2 with mode=proxy"),
        ("fuse(a, b, c; mode=contrastive)", "got '3 experts'"),
        ("fuse(a, b, a, b, a, b, a, b, a)", "allowed: 2 to 8 with mode=dlf"),
        ("fuse(a*-1, b; mode=mean)", "allowed: none below 0 and not all 0, for a mean"),
        ("fuse(a*0.5, b)", "got 'a*0.5' in fuse(a*0.5, b), allowed: experts without weights: mode=dlf finds its own"),
    ],
)
def test_what_is_wrong_is_said_with_what_is_allowed(resolver: Resolver, model: str, message: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        resolver.plan(model)
    assert str(refused.value).startswith("model: got ")
    assert message in str(refused.value)


def test_fusions_within_each_other_are_refused(resolver: Resolver) -> None:
    for model in ("fuse(a, fuse(a, b))", "fuse(a, team)", "team + a"):
        with pytest.raises(Unsupported, match="a fusion alone: it combines outputs"):
            resolver.plan(model)
    with pytest.raises(Conflict, match="a composition contains itself: loop -> loop-2 -> loop"):
        resolver.plan("loop")
    with pytest.raises(UnknownModel, match="'nobody' is not served here"):
        resolver.plan("fuse(a, nobody)")


def test_saving_checks_a_fusion(resolver: Resolver) -> None:
    resolver.check(parse("fuse(a, b)"), "expression", saved_as="new")
    with pytest.raises(InvalidInput, match="expression: got 'step=0'"):
        resolver.check(parse("fuse(a, b; step=0)"), "expression", saved_as="new")
    with pytest.raises(Conflict, match="team -> team-2 -> team"):
        resolver.check(parse("fuse(team-2, b)"), "expression", saved_as="team")


def test_base_alone_is_no_fusion(resolver: Resolver) -> None:
    assert resolver.plan("a - a") == Plan(())
