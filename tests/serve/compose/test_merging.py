"""From merges in expressions to recipes; the snapshot is real, the results are made up."""

from dataclasses import replace

import pytest

from polyad.adapters_store.errors import InvalidInput, PolyadError, UnknownModel, Unsupported, WrongBase
from polyad.adapters_store.merge import Input
from polyad.adapters_store.registry import MergedVersion, MergeEntry, Snapshot, Version
from polyad.adapters_store.registry.records import Composition, Header
from polyad.serve.compose import MergeDraft, Merges, MissingMerge, Resolver

TENANT, FINGERPRINT = "public", "f" * 64


def version(adapter: str, number: int, base: str = FINGERPRINT) -> Version:
    return Version(
        tenant=TENANT,
        adapter=adapter,
        number=number,
        digest=f"{adapter[0]}{number}".encode().hex().ljust(64, "0"),
        size=10,
        base=base,
        rank=4,
        targets=("q_proj",),
        source="upload",
        created=1.0,
    )


VERSIONS = [version("a", 1), version("b", 1), version("b", 2), version("c", 1), version("other", 1, "e" * 64)]
COMPOSITIONS = {"mixed": "a*0.5 + b", "merged": "ties(a, b)", "half": "c*0.5"}


def header(name: str) -> Header:
    number = max(one.number for one in VERSIONS if one.adapter == name)
    return Header(tenant=TENANT, name=name, created=1.0, revision=1, aliases={"production": number}, pins={})


SNAPSHOT = Snapshot.build(
    "birth",
    1,
    [header(name) for name in ("a", "b", "c", "other")],
    VERSIONS,
    [Composition(tenant=TENANT, name=n, expression=e, created=1.0, revision=1) for n, e in COMPOSITIONS.items()],
)


def entry(draft: MergeDraft, digest: str = "d" * 64) -> MergeEntry:
    return MergeEntry(
        tenant=TENANT,
        id=draft.id,
        text=draft.text,
        recipe=draft.recipe.to_json(),
        digest=digest,
        size=100,
        base=draft.base,
        rank=8,
        targets=("q_proj",),
        created=2.0,
        report={},
    )


@pytest.fixture
def known() -> Merges:
    return Merges(max_rank=16)


@pytest.fixture
def resolver(known: Merges) -> Resolver:
    return Resolver(SNAPSHOT, TENANT, ["base"], FINGERPRINT, merges=known)


def missing(resolver: Resolver, model: str) -> MergeDraft:
    with pytest.raises(MissingMerge) as raised:
        resolver.plan(model)
    assert raised.value.http_status == 503
    return raised.value.draft


def digest_of(name: str, number: int = 1) -> str:
    return next(one.digest for one in VERSIONS if (one.adapter, one.number) == (name, number))


def test_a_merge_becomes_a_recipe_over_versions(resolver: Resolver) -> None:
    draft = missing(resolver, "ties(a, b*0.5; density=0.3)")
    assert draft.recipe.inputs == (Input(((digest_of("a"), 1.0),), 1.0), Input(((digest_of("b", 2), 1.0),), 0.5))
    assert dict(draft.recipe.parameters) == {"density": 0.3}
    assert draft.text == "ties(a@v1, b@v2*0.5; density=0.3)"
    assert [one.name for one in draft.parents] == ["a@v1", "b@v2"]


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("a*0.5 + b", Input(((digest_of("a"), 0.5), (digest_of("b", 2), 1.0)), 1.0)),
        ("mixed", Input(((digest_of("a"), 0.5), (digest_of("b", 2), 1.0)), 1.0)),
        ("half", Input(((digest_of("c"), 1.0),), 0.5)),
        ("half*0.5", Input(((digest_of("c"), 1.0),), 0.25)),
        ("linear(a*0.5, b)", Input(((digest_of("a"), 0.5), (digest_of("b", 2), 1.0)), 1.0)),
    ],
)
def test_an_argument_may_be_a_blend(resolver: Resolver, argument: str, expected: Input) -> None:
    assert missing(resolver, f"ties(c, {argument})").recipe.inputs[1] == expected


@pytest.mark.parametrize(
    ("model", "label"),
    [
        ("linear(a*0.7, b*0.3)", "a@v1*0.7 + b@v2*0.3"),
        ("linear(a*3, b; normalize=true)", "a@v1*0.75 + b@v2*0.25"),
        ("soup(a, b)", "a@v1*0.5 + b@v2*0.5"),
        ("checkpoint_average(b@v1, b@v2)", "b@v1*0.5 + b@v2*0.5"),
        ("task_arithmetic(a, b; scale=0.4)", "a@v1*0.4 + b@v2*0.4"),
        ("interpolate(a)", "a@v1*0.5"),
        ("soup(a, b)*0.5 + c", "a@v1*0.25 + b@v2*0.25 + c@v1"),
        ("linear(mixed, c)", "a@v1*0.5 + b@v2 + c@v1"),
    ],
)
def test_a_weighted_sum_is_a_blend_and_nothing_is_computed(resolver: Resolver, model: str, label: str) -> None:
    assert resolver.plan(model).label == label


def test_what_was_computed_is_served_like_a_version(resolver: Resolver, known: Merges) -> None:
    draft = missing(resolver, "ties(a, b)")
    known.add(entry(draft))
    plan = resolver.plan("ties(a, b)")
    assert plan.label == "ties(a@v1, b@v2)"
    (only,) = plan.versions
    assert isinstance(only, MergedVersion)
    assert (only.digest, only.merged) == ("d" * 64, draft.parents)
    assert resolver.plan("merged") == plan
    assert resolver.plan("base:ties(a, b)") == plan
    assert resolver.plan("ties(a, b)*0.5 + c").label == "c@v1 + ties(a@v1, b@v2)*0.5"


def test_merges_within_merges_come_first(resolver: Resolver, known: Merges) -> None:
    model = "ties(dare_linear(a, b; seed=3), c)"
    inner = missing(resolver, model)
    assert inner.recipe.method == "dare_linear" and inner.recipe.seed == 3
    known.add(entry(inner, "1" * 64))
    outer = missing(resolver, model)
    assert outer.recipe.sources == ("1" * 64, digest_of("c"))
    assert [one.name for one in outer.parents] == ["a@v1", "b@v2", "c@v1"]
    known.add(entry(outer, "2" * 64))
    assert resolver.plan(model).label == "ties(dare_linear(a@v1, b@v2; seed=3), c@v1)"


def test_another_version_is_another_merge(resolver: Resolver, known: Merges) -> None:
    known.add(entry(missing(resolver, "ties(a, b)")))
    assert missing(resolver, "ties(a, b@v1)").text == "ties(a@v1, b@v1)"
    resolver.plan("ties(a, b@v2)")


def test_results_of_one_tenant_are_not_anothers(resolver: Resolver, known: Merges) -> None:
    draft = missing(resolver, "ties(a, b)")
    known.add(entry(draft).model_copy(update={"tenant": "them"}))
    with pytest.raises(MissingMerge):
        known.merged(draft)
    assert known.merged(replace(draft, tenant="them")).tenant == "them"


def test_what_is_dense_is_compressed_to_what_the_server_takes(resolver: Resolver) -> None:
    assert missing(resolver, "ties(a, b)").recipe.as_dict()["compress"] == {
        "energy": 0.99,
        "max_rank": 16,
        "sparse_below": 0.05,
    }
    for options, expected in (
        ("compress_rank=4", {"rank": 4}),
        ("compress_energy=0.5", {"energy": 0.5, "max_rank": 16}),
        ("compress_density=0.1", {"density": 0.1}),
    ):
        assert missing(resolver, f"ties(a, b; {options})").recipe.as_dict()["compress"] == expected


@pytest.mark.parametrize(
    ("model", "kind", "message"),
    [
        ("tise(a, b)", Unsupported, "merge methods: linear"),
        ("ties(a, nobody)", UnknownModel, "'nobody' is not served here"),
        ("ties(a, other)", WrongBase, "other@v1 was made for"),
        ("ties(a, -1*b)", InvalidInput, "a name such as support"),
        ("ties(a, b*-1)", InvalidInput, "weights of 0 or more"),
        ("ties(a, b; density=2)", InvalidInput, "density: got 2"),
        ("ties(a, b; densty=0.2)", InvalidInput, "parameters of ties"),
        ("ties(a, b; variant=theirs)", InvalidInput, "variants of ties"),
        ("ties(a, b; variant=1)", InvalidInput, "a word"),
        ("ties(a, b; seed=x)", InvalidInput, "seed"),
        ("ties(a, b; compress_rank=17)", InvalidInput, "the server's max_rank"),
        ("ties(a, b; compress_rank=2, compress_energy=0.5)", InvalidInput, "one of compress_rank"),
        ("ties(a, a - a)", InvalidInput, "changes nothing"),
        ("slerp(a, b, c)", InvalidInput, "allowed: 2 for slerp"),
        ("fisher(a, b)", InvalidInput, "need no fisher statistics"),
        ("ties(fuse(a, b), c)", InvalidInput, "fuse"),
    ],
)
def test_what_cannot_be_merged_is_refused(
    resolver: Resolver, model: str, kind: type[PolyadError], message: str
) -> None:
    with pytest.raises(kind, match=message) as refused:
        resolver.plan(model)
    assert refused.value.field == "model"


def test_a_composition_may_be_saved_before_it_is_computed(resolver: Resolver) -> None:
    resolver.check(resolver.parse("ties(a, b)*0.5 + c", "expression"), "expression", "new")
    with pytest.raises(UnknownModel, match="nobody"):
        resolver.check(resolver.parse("ties(a, nobody)", "expression"), "expression", "new")


def test_a_blend_can_be_written_out_as_a_merge(resolver: Resolver) -> None:
    draft = resolver.draft(resolver.parse("a*0.7 + b*0.3", "expression"), "expression")
    assert draft.recipe.method == "linear"
    assert draft.recipe.inputs == (Input(((digest_of("a"), 1.0),), 0.7), Input(((digest_of("b", 2), 1.0),), 0.3))
    with pytest.raises(Unsupported):
        resolver.draft(resolver.parse("fuse(a, b)", "expression"), "expression")
