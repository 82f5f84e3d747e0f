import random
import time

import pytest

from polyad.adapters_store.errors import UnknownAdapter, UnknownAlias, UnknownVersion
from polyad.adapters_store.registry import Change, Snapshot, Version
from polyad.adapters_store.registry.records import Header
from polyad.adapters_store.registry.snapshot import OutOfOrder


def _header(name: str, revision: int = 1, tenant: str = "acme", **aliases: int) -> Header:
    return Header(tenant=tenant, name=name, created=1.0, revision=revision, aliases=aliases, pins={})


def _version(name: str, number: int, digest: str, tenant: str = "acme") -> Version:
    return Version(
        tenant=tenant, adapter=name, number=number, digest=digest, size=1, created=1.0, base="b", rank=8,
        targets=("q_proj",), source="upload",
    )  # fmt: skip


def _change(revision: int, name: str, header: Header | None, version: Version | None = None) -> Change:
    return Change(kind="x", birth="b", revision=revision, tenant="acme", name=name, record=header, version=version)


@pytest.fixture
def snapshot() -> Snapshot:
    digests = {1: "a" * 64, 2: "a" * 20 + "b" * 44, 3: "c" * 64}
    versions = [_version("support", number, digest) for number, digest in digests.items()]
    header = _header("support", production=1, canary=3, gone=9)
    return Snapshot.build("b", 5, [header, _header("tone")], versions)


@pytest.mark.parametrize(
    ("reference", "number"),
    [("production", 1), ("canary", 3), ("v2", 2), ("a" * 21, 1), ("a" * 20 + "b", 2), ("c" * 12, 3), ("c" * 64, 3)],
)
def test_resolve(snapshot: Snapshot, reference: str, number: int) -> None:
    assert snapshot.resolve("acme", "support", reference).number == number


@pytest.mark.parametrize(
    ("reference", "error", "message"),
    [
        ("a" * 12, UnknownVersion, "fits several versions"),
        ("d" * 12, UnknownVersion, "no digest"),
        ("v4", UnknownVersion, "no version of adapter 'support'"),
        ("gone", UnknownVersion, "no version"),
        ("staging", UnknownAlias, "it has: canary, gone, production"),
        ("c" * 11, UnknownAlias, "no alias"),
        ("v0", UnknownAlias, "no alias"),
        ("", UnknownAlias, "no alias"),
    ],
)
def test_what_does_not_resolve(snapshot: Snapshot, reference: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        snapshot.resolve("acme", "support", reference)


def test_tenants_do_not_see_each_other(snapshot: Snapshot) -> None:
    with pytest.raises(UnknownAdapter):
        snapshot.resolve("globex", "support", "v1")
    assert snapshot.page("globex", None, 10) == []


def test_changes_out_of_order_are_refused_and_old_ones_skipped(snapshot: Snapshot) -> None:
    late = _change(7, "tone", _header("tone", 7))
    with pytest.raises(OutOfOrder):
        snapshot.apply(late)
    added = _change(6, "tone", _header("tone", 6, production=1), _version("tone", 1, "e" * 64))
    assert snapshot.apply(added)
    assert not snapshot.apply(added)
    assert snapshot.resolve("acme", "tone").digest == "e" * 64
    assert snapshot.apply(late)
    assert snapshot.apply(_change(8, "tone", None))
    with pytest.raises(OutOfOrder):
        snapshot.apply(_change(9, "x", None).model_copy(update={"birth": "other"}))
    assert [adapter.name for adapter in snapshot.page("acme", None, 10)] == ["support"]


def test_ten_thousand_adapters_page_and_resolve_in_microseconds() -> None:
    names = [f"a{number:05d}" for number in range(10_000)]
    headers = [_header(name, production=1) for name in random.Random(1).sample(names, len(names))]
    snapshot = Snapshot.build("b", 1, headers, [_version(name, 1, f"{name[1:]:0<64}") for name in names])
    walked: list[str] = []
    while page := snapshot.page("acme", walked[-1] if walked else None, 999):
        walked += [adapter.name for adapter in page]
    assert walked == names
    assert [adapter.name for adapter in snapshot.page("acme", "a00041x", 1)] == ["a00042"]
    assert len(snapshot.digests()) == 10_000
    assert _best_us(lambda: snapshot.resolve("acme", "a05000")) < 50
    assert _best_us(lambda: snapshot.resolve("acme", "a05000", "05000" + "0" * 20)) < 100
    assert _best_us(lambda: snapshot.page("acme", "a05000", 20)) < 100


def _best_us(call: object, rounds: int = 5, calls: int = 200) -> float:
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(calls):
            call()  # type: ignore[operator]
        best = min(best, (time.perf_counter() - began) / calls * 1e6)
    return best
