from collections.abc import Callable

import pytest

from polyad.adapters_store.errors import UnknownModel, WrongBase
from polyad.adapters_store.registry import Snapshot, Version
from polyad.adapters_store.registry.records import Header
from polyad.serve.compose import Resolver

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


SNAPSHOT = Snapshot.build(
    "birth",
    1,
    [
        header("support", {"production": 2, "canary": 3, "previous": 1}),
        header("new", {}),
        header("other-base", {"production": 1}),
        header("theirs", {"production": 1}, tenant="them"),
    ],
    [
        version("support", 1, FIRST),
        version("support", 2, SECOND),
        version("support", 3, THIRD),
        version("new", 1, FIRST),
        version("other-base", 1, FIRST, base="e" * 64),
        version("theirs", 1, FIRST, tenant="them"),
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
        "public/support",
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


def test_version_for_another_base_model_is_a_conflict(make: Callable[..., Resolver]) -> None:
    with pytest.raises(WrongBase, match=r"other-base@v1 was made for the base model e{12}, this server holds f{12}"):
        make().plan("other-base")


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
