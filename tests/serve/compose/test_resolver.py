import contextlib
from collections.abc import Callable

import pytest

from polyad.adapters_store.errors import Conflict, InvalidInput, InvalidName, UnknownModel, Unsupported, WrongBase
from polyad.adapters_store.registry import Composition, Snapshot, Version
from polyad.adapters_store.registry.records import Header
from polyad.serve.compose import Resolver, parse

BASE = "SmolLM2-135M-Instruct"
FINGERPRINT = "f" * 64
TENANT = "public"
FIRST, SECOND, THIRD = ("0" * 64, "1" * 64, "1" * 63 + "2")


def version(adapter: str, number: int, digest: str, *, base: str = FINGERPRINT, tenant: str = TENANT) -> Version:
    return Version(
        tenant=tenant,
        adapter=adapter,
        number=number,
        created=0,
        digest=digest,
        size=1,
        base=base,
        rank=8,
        targets=("q_proj",),
        source="upload",
    )


def header(name: str, aliases: dict[str, int], tenant: str = TENANT) -> Header:
    return Header(tenant=tenant, name=name, created=0, revision=1, aliases=aliases, pins={})


def composition(name: str, expression: str, tenant: str = TENANT) -> Composition:
    return Composition(tenant=tenant, name=name, expression=expression, created=0, revision=1)


SNAPSHOT = Snapshot.build(
    "birth",
    1,
    [
        header("support", {"production": 2, "canary": 3, "previous": 1}),
        header("new", {}),
        header("other-base", {"production": 1}),
        header("theirs", {"production": 1}, tenant="them"),
        header("tone", {"production": 1, "canary": 1}),
    ],
    [
        version("support", 1, FIRST),
        version("support", 2, SECOND),
        version("support", 3, THIRD),
        version("new", 1, FIRST),
        version("other-base", 1, FIRST, base="e" * 64),
        version("theirs", 1, FIRST, tenant="them"),
        version("tone", 1, SECOND),
    ],
    [
        composition("helpful", "support*0.7 + tone*0.3"),
        composition("warm", "helpful*0.5 + tone"),
        composition("alias", "support@canary"),
        composition("stale", "helpful + deleted*0.5"),
        composition("deep-stale", "stale*2"),
        composition("merged", "ties(support, tone)"),
        composition("nothing", "tone - tone"),
        composition("loop", "support + loop-2"),
        composition("loop-2", "loop-3*0.5"),
        composition("loop-3", "loop"),
        composition("secret", "theirs", tenant="them"),
        composition("odd", "support + ?"),
        *(composition(f"chain-{n}", f"chain-{n + 1}") for n in range(9)),
        composition("chain-9", "support"),
        # Each name stands for twenty others, three times over.
        composition("wide", " + ".join(f"wide-{n}" for n in range(20))),
        *(composition(f"wide-{n}", " + ".join(f"wider-{m}" for m in range(20))) for n in range(20)),
        *(composition(f"wider-{n}", "support + tone") for n in range(20)),
    ],
)


@pytest.fixture
def make() -> Callable[..., Resolver]:
    return lambda *names: Resolver(SNAPSHOT, TENANT, names or (BASE,), FINGERPRINT)


@pytest.mark.parametrize("prefix", ["", f"{BASE}:"], ids=["plain", "behind the base model"])
@pytest.mark.parametrize(
    ("model", "label"),
    [
        ("support", "support@v2"),
        ("support@production", "support@v2"),
        ("support@canary", "support@v3"),
        ("support@previous", "support@v1"),
        ("support@v1", "support@v1"),
        (f"support@{FIRST}", "support@v1"),
        ("support@000000000000", "support@v1"),
        ("new@v1", "new@v1"),
    ],
)
def test_what_a_name_stands_for(make: Callable[..., Resolver], model: str, label: str, prefix: str) -> None:
    assert make().plan(prefix + model).label == label


@pytest.mark.parametrize("label", ["support@v1", "support@v2", "support@v3"])
def test_what_answered_can_be_asked_for_again(make: Callable[..., Resolver], label: str) -> None:
    assert make().plan(label).label == label


@pytest.mark.parametrize(
    "model",
    [
        "nobody",
        "support@v4",
        "support@v0",
        "support@v01",
        "support@V1",
        "support@stable",
        "support@111111111111",
        "support@00000000000",
        "support@ffffffffffff",
        "new",
        "theirs",
        "them/theirs",
        "public/nobody",
        "acme/support",
        "public/acme/support",
        "supp\N{CYRILLIC SMALL LETTER O}rt",
        "../support",
        "/support",
        "x" * 300,
        f"{BASE}:",
        f"{BASE}:nobody",
        f"{BASE}:{BASE}",
        f"{BASE}:{BASE}:support",
        f"{BASE} :support",
        f"{BASE.lower()}:support",
        f"{BASE}@v1",
        BASE.lower(),
        BASE + " ",
        ":support",
        "other:support",
        "",
        "secret",
        "helpful@v1",
        f"{BASE}:secret",
        "support- tone",
        "support tone",
    ],
)
def test_what_nobody_is_called_is_unknown_and_never_the_base_model(make: Callable[..., Resolver], model: str) -> None:
    resolver = make()
    assert not resolver.is_base(model)
    with pytest.raises(UnknownModel) as unknown:
        resolver.plan(model)
    assert unknown.value.http_status == 404
    assert unknown.value.field == "model"
    assert repr(model)[:100] in str(unknown.value)
    assert len(str(unknown.value)) < 900


@pytest.mark.parametrize("prefix", ["", f"{BASE}:", f"{BASE}: "], ids=["plain", "behind the base model", "and a space"])
@pytest.mark.parametrize(
    ("model", "label"),
    [
        ("support*0.7 + tone*0.3", "support@v2*0.7 + tone@v1*0.3"),
        ("tone - support@canary", "support@v3*-1 + tone@v1"),
        ("support*0.5", "support@v2*0.5"),
        ("support + support@canary + support@v1", "support@v1 + support@v2 + support@v3"),
        ("support*0.25 + support@v2*0.5", "support@v2*0.75"),
        (f"support@previous + support@{FIRST[:12]} + support@v1*-1", "support@v1"),
        ("tone@canary*0.1 + tone*0.2", "tone@v1*0.3"),
        ("support@v2 - support", "()"),
        ("support - support", "()"),
        ("(support)", "support@v2"),
        ("helpful*2", "support@v2*1.4 + tone@v1*0.6"),
        ("helpful - tone*0.3", "support@v2*0.7"),
        ("(warm)", "support@v2*0.35 + tone@v1*1.15"),
        ("alias - alias", "()"),
    ],
)
def test_what_a_blend_stands_for(make: Callable[..., Resolver], model: str, label: str, prefix: str) -> None:
    plan = make().plan(prefix + model)
    assert plan.label == label
    assert make().plan(f"({plan.label})") == plan


@pytest.mark.parametrize(
    ("model", "label"),
    [
        ("helpful", "support@v2*0.7 + tone@v1*0.3"),
        ("helpful@production", "support@v2*0.7 + tone@v1*0.3"),
        (f"{BASE}:helpful", "support@v2*0.7 + tone@v1*0.3"),
        ("warm", "support@v2*0.35 + tone@v1*1.15"),
        ("alias", "support@v3"),
        ("nothing", "()"),
        ("chain-2", "support@v2"),
    ],
)
def test_saved_composition_is_used_like_a_name(make: Callable[..., Resolver], model: str, label: str) -> None:
    assert make().plan(model).label == label


@pytest.mark.parametrize(
    ("model", "name", "message"),
    [
        ("support*0.7 + nobody*0.3", "nobody", "is not served here (adapter: 'nobody' does not exist)"),
        ("support + tone@v9", "tone@v9", "is not served here (version: 'v9' is no version of adapter 'tone')"),
        ("tone@staging*2", "tone@staging", "is no alias of adapter 'tone'; it has: canary, production"),
        ("support + new", "new", "is no alias of adapter 'new'"),
        ("support + theirs", "theirs", "does not exist"),
        ("support + secret", "secret", "does not exist"),
        ("support + llama", "llama", "does not exist"),
        ("helpful@v1*2", "helpful@v1", "a composition has no versions and no aliases"),
        ("stale", "deleted", "does not exist) in stale"),
        ("deep-stale", "deleted", "does not exist) in deep-stale -> stale"),
        ("tone + deep-stale", "deleted", "does not exist) in deep-stale -> stale"),
    ],
)
def test_unknown_name_in_a_composition_is_named(
    make: Callable[..., Resolver], model: str, name: str, message: str
) -> None:
    with pytest.raises(UnknownModel) as unknown:
        make(BASE, "llama").plan(model)
    assert unknown.value.field == "model"
    assert str(unknown.value).startswith(f"model: {name!r} ")
    assert message in str(unknown.value)


@pytest.mark.parametrize(
    ("model", "kind", "message"),
    [
        ("support*", InvalidInput, "got '' at the end of 'support*'"),
        (f"{BASE}:support + *", InvalidInput, f"got '*' at character {len(BASE) + 12} of "),
        ("support*0.7 + Tone*0.3", InvalidName, "got 'Tone' at character 15 of"),
        ("other:support + tone", InvalidName, "got 'other:support' at character 1 of"),
        (f"support + {BASE}", InvalidName, f"got '{BASE}' at character 11 of"),
        ("support - -tone", InvalidInput, "got '-tone' at character 11 of"),
        ("x" * 1020 + " + y", InvalidName, "allowed: "),
        ("x" * 300 + "*0.1", InvalidName, "allowed: "),
        ("y + " * 300, InvalidInput, "at most 1024 characters"),
        ("odd", InvalidName, "got '?' at character 11 of 'support + ?'"),
    ],
)
def test_malformed_composition_is_invalid_and_not_unknown(
    make: Callable[..., Resolver], model: str, kind: type[InvalidInput], message: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        make().plan(model)
    assert type(refused.value) is kind
    assert (refused.value.http_status, refused.value.field) == (400, "model")
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("model", "node", "kind"),
    [
        ("ties(support, tone; density=0.2)", "ties(support, tone; density=0.2)", "merges"),
        ("support + ties(tone)*0.5", "ties(tone)", "merges"),
        ("merged", "ties(support, tone)' in merged", "merges"),
    ],
)
def test_what_is_not_served_yet_is_said_so(make: Callable[..., Resolver], model: str, node: str, kind: str) -> None:
    with pytest.raises(Unsupported) as refused:
        make().plan(model)
    assert refused.value.http_status == 400
    assert f"got '{node}" in str(refused.value)
    assert f"{kind} are not served yet" in str(refused.value)


def test_compositions_that_contain_each_other_are_a_conflict_that_shows_the_way(make: Callable[..., Resolver]) -> None:
    chain = r"model: a composition contains itself: loop -> loop-2 -> loop-3 -> loop"
    with pytest.raises(Conflict, match=chain):
        make().plan("loop")
    with pytest.raises(Conflict, match=chain):
        make().plan("support*0.5 + loop*0.5")


def test_compositions_within_each_other_are_bounded(make: Callable[..., Resolver]) -> None:
    with pytest.raises(Conflict, match="at most 8 compositions within each other: chain-1 -> .* -> chain-9"):
        make().plan("chain-1")


def test_what_names_stand_for_is_bounded(make: Callable[..., Resolver]) -> None:
    with pytest.raises(InvalidInput, match="'more names' in wide -> wide-.*, allowed: at most 256 names"):
        make().plan("wide")
    assert make().plan("wide-1").label == "support@v2*20 + tone@v1*20"


def test_versions_are_bounded(make: Callable[..., Resolver]) -> None:
    resolver = Resolver(SNAPSHOT, TENANT, [BASE], FINGERPRINT, max_versions=2)
    assert len(resolver.plan("support@v1 + support@v2 + support@v3*0").versions) == 2
    assert len(resolver.plan("support + helpful + tone").versions) == 2
    with pytest.raises(InvalidInput, match="model: got '3 versions', allowed: at most 2 in one composition"):
        resolver.plan("support@v1 + support@v2 + support@v3")
    names = [f"a{n}" for n in range(9)]
    snapshot = Snapshot.build(
        "birth", 1, [header(name, {"production": 1}) for name in names], [version(name, 1, FIRST) for name in names]
    )
    resolver = Resolver(snapshot, TENANT, [BASE], FINGERPRINT)
    assert len(resolver.plan("+".join(f"{name} " for name in names[:8])).versions) == 8
    with pytest.raises(InvalidInput, match="at most 8 in one composition"):
        resolver.plan(" + ".join(names))


def test_same_bytes_under_two_names_are_two_versions(make: Callable[..., Resolver]) -> None:
    assert make().plan("support@v1 + new@v1").label == "new@v1 + support@v1"


def test_weights_are_bounded_also_through_saved_compositions() -> None:
    versions, headers = [version("a", 1, FIRST)], [header("a", {"production": 1})]
    saved = [composition("loud", "a*1000")]
    resolver = Resolver(Snapshot.build("birth", 1, headers, versions, saved), TENANT, [BASE], FINGERPRINT)
    assert resolver.plan("loud").label == "a@v1*1000"
    with pytest.raises(InvalidInput, match="got 2000.0 for a@v1, saved compositions multiplied out"):
        resolver.plan("loud*2")


def test_saving_looks_at_the_name_that_is_about_to_be_saved(make: Callable[..., Resolver]) -> None:
    resolver = make()
    resolver.check(parse("helpful + tone"), "expression", saved_as="new-name")
    with pytest.raises(Conflict, match="expression: a composition contains itself: helpful -> warm -> helpful"):
        resolver.check(parse("support + warm"), "expression", saved_as="helpful")
    with pytest.raises(UnknownModel, match="expression: 'nobody' is not served here"):
        resolver.check(parse("nobody*0.5"), "expression", saved_as="helpful")


def test_version_for_another_base_model_is_a_conflict(make: Callable[..., Resolver]) -> None:
    with pytest.raises(WrongBase, match=r"other-base@v1 was made for the base model e{12}, this server holds f{12}"):
        make().plan("other-base")
    with pytest.raises(WrongBase, match="other-base@v1 was made for"):
        make().plan("support + other-base*0.1")


def test_nothing_is_kept_for_what_clients_send(make: Callable[..., Resolver]) -> None:
    resolver = make()
    before = {key: repr(value) for key, value in vars(resolver).items()}
    for number in range(50):
        for model in (f"nobody-{number}", f"support*0.{number} + tone", f"support + nobody-{number}"):
            with contextlib.suppress(UnknownModel):
                resolver.plan(model)
    assert {key: repr(value) for key, value in vars(resolver).items()} == before


def test_base_model_may_have_several_names_and_colons_in_them(make: Callable[..., Resolver]) -> None:
    resolver = make("llama", "llama:8b", "org/llama:8b")
    for name in ("llama", "llama:8b", "org/llama:8b"):
        assert resolver.is_base(name)
        assert resolver.plan(f"{name}:support").label == "support@v2"
    assert not resolver.is_base("8b")


def test_plan_is_of_the_moment_it_was_made(make: Callable[..., Resolver]) -> None:
    snapshot = Snapshot.build("birth", 1, [header("a", {"production": 1})], [version("a", 1, FIRST)])
    resolver = Resolver(snapshot, TENANT, (BASE,), FINGERPRINT)
    before = resolver.plan("a")
    versions = [version("a", 1, FIRST), version("a", 2, SECOND)]
    snapshot.replace(Snapshot.build("birth", 2, [header("a", {"production": 2})], versions))
    assert (before.label, resolver.plan("a").label) == ("a@v1", "a@v2")


@pytest.mark.parametrize("model", ["bad@v2", "bad@v2*0.5", "bad*0.5 + bad@v2*0.5"])
def test_what_a_gate_turned_down_is_not_served(model: str) -> None:
    rejected = version("bad", 2, SECOND).model_copy(update={"quarantined": True, "run": "run-1"})
    snapshot = Snapshot.build("birth", 1, [header("bad", {"production": 1})], [version("bad", 1, FIRST), rejected])
    resolver = Resolver(snapshot, TENANT, [BASE], FINGERPRINT)
    assert resolver.plan("bad").label == "bad@v1"
    with pytest.raises(UnknownModel, match="turned down by the gate of run-1"):
        resolver.plan(model)
