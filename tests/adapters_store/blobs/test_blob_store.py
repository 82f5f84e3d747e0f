import asyncio
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pytest

from polyad.adapters_store.blobs import BlobStore
from polyad.adapters_store.errors import BlobsUnavailable, ConfigError, CorruptBlob, InvalidInput

MakeFile = Callable[[bytes], tuple[str, Path]]


async def started(root: str, cache: Path, cache_bytes: int = 10**6) -> BlobStore:
    store = BlobStore(root, cache, cache_bytes)
    await store.start()
    return store


def root_files(root: str) -> dict[str, bytes]:
    files, prefix = fsspec.core.url_to_fs(root)
    return {path.rpartition("/")[2]: files.cat_file(path) for path in files.find(prefix)}


def spoil(root: str, digest: str, content: bytes) -> None:
    files, prefix = fsspec.core.url_to_fs(root)
    files.pipe_file(f"{prefix}/{digest[:2]}/{digest}", content)


def make_old(root: str, digest: str, seconds: float) -> None:
    files, prefix = fsspec.core.url_to_fs(root)
    path, then = f"{prefix}/{digest[:2]}/{digest}", time.time() - seconds
    if root.startswith("memory://"):
        files.store[path].created = files.store[path].modified = datetime.fromtimestamp(then, UTC)
    else:
        os.utime(path, (then, then))


def cached(cache: Path) -> set[bytes]:
    return {path.read_bytes() for path in cache.rglob("*") if path.is_file()}


async def test_what_is_put_is_fetched(root: str, tmp_path: Path, make_file: MakeFile) -> None:
    store = await started(root, tmp_path / "cache")
    digest, path = make_file(b"some bytes")
    await store.put(path, digest)
    await store.put(path, digest)
    assert root_files(root) == {digest: b"some bytes"}
    path.unlink()
    assert (await store.fetch(digest)).read_bytes() == b"some bytes"
    again = await started(root, tmp_path / "other cache")
    assert (await again.fetch(digest)).read_bytes() == b"some bytes"


async def test_put_refuses_other_bytes_and_leaves_nothing(root: str, tmp_path: Path, make_file: MakeFile) -> None:
    store = await started(root, tmp_path / "cache")
    digest, _ = make_file(b"right")
    _, wrong = make_file(b"wrong")
    with pytest.raises(CorruptBlob, match=digest):
        await store.put(wrong, digest)
    assert root_files(root) == {}
    with pytest.raises(CorruptBlob, match="missing"):
        await store.fetch(digest)


@pytest.mark.parametrize("content", [b"", b"other bytes", b"some bytes and more"])
async def test_a_spoiled_root_is_noticed_and_put_repairs_it(
    root: str, tmp_path: Path, make_file: MakeFile, content: bytes
) -> None:
    store = await started(root, tmp_path / "cache")
    digest, path = make_file(b"some bytes")
    await store.put(path, digest)
    spoil(root, digest, content)
    with pytest.raises(CorruptBlob, match=digest):
        await store.fetch(digest)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    _, path = make_file(b"some bytes")
    await store.put(path, digest)
    assert (await store.fetch(digest)).read_bytes() == b"some bytes"


async def test_delete_and_list(root: str, tmp_path: Path, make_file: MakeFile) -> None:
    store = await started(root, tmp_path / "cache")
    assert await store.digests() == []
    made = dict(make_file(content) for content in (b"one", b"second"))
    for digest, path in made.items():
        await store.put(path, digest)
    listed = {blob.digest: blob for blob in await store.digests()}
    assert {digest: blob.size for digest, blob in listed.items()} == {
        digest: path.stat().st_size for digest, path in made.items()
    }
    assert all(0 <= blob.age_seconds < 60 for blob in listed.values())
    gone = next(iter(made))
    await store.fetch(gone)
    await store.delete(gone)
    await store.delete(gone)
    assert [blob.digest for blob in await store.digests()] == [digest for digest in made if digest != gone]
    with pytest.raises(CorruptBlob, match="missing"):
        await store.fetch(gone)


@pytest.mark.parametrize("scheme", ["", "file://"])
async def test_age(tmp_path: Path, make_file: MakeFile, scheme: str) -> None:
    store = await started(f"{scheme}{tmp_path / 'root'}", tmp_path / "cache")
    digest, path = make_file(b"old")
    await store.put(path, digest)
    stored = tmp_path / "root" / digest[:2] / digest
    os.utime(stored, (time.time() - 5000, time.time() - 5000))
    assert 4990 < (await store.digests())[0].age_seconds < 5060


@pytest.mark.parametrize("again", ["put", "put by another", "refresh"])
async def test_what_is_put_again_is_young(root: str, tmp_path: Path, make_file: MakeFile, again: str) -> None:
    store = await started(root, tmp_path / "cache")
    digest, path = make_file(b"some bytes")
    await store.put(path, digest)
    make_old(root, digest, 5000)
    assert (await store.digests())[0].age_seconds > 4990
    if again == "refresh":
        await store.refresh(digest)
    else:
        by = store if again == "put" else await started(root, tmp_path / "other cache")
        await by.put(make_file(b"some bytes")[1], digest)
    assert (await store.digests())[0].age_seconds < 60
    assert (await store.fetch(digest)).read_bytes() == b"some bytes"


async def test_what_is_missing_cannot_be_made_young(root: str, tmp_path: Path, make_file: MakeFile) -> None:
    store = await started(root, tmp_path / "cache")
    with pytest.raises(CorruptBlob, match="missing"):
        await store.refresh(make_file(b"x")[0])


async def test_a_file_that_was_written_long_ago_is_young_once_it_is_put(
    root: str, tmp_path: Path, make_file: MakeFile
) -> None:
    store = await started(root, tmp_path / "cache")
    digest, path = make_file(b"old")
    os.utime(path, (time.time() - 5000, time.time() - 5000))
    await store.put(path, digest)
    assert (await store.digests())[0].age_seconds < 60


async def test_delete_spares_what_is_young(root: str, tmp_path: Path, make_file: MakeFile) -> None:
    store = await started(root, tmp_path / "cache")
    digest, path = make_file(b"some bytes")
    await store.put(path, digest)
    assert not await store.delete(digest, 60)
    assert (await store.fetch(digest)).read_bytes() == b"some bytes"
    make_old(root, digest, 70)
    assert await store.delete(digest, 60)
    assert not await store.delete(digest, 60)
    assert await store.digests() == []


async def test_a_root_knows_whose_it_is(root: str, tmp_path: Path, make_file: MakeFile) -> None:
    store = await started(root, tmp_path / "cache")
    digest, path = make_file(b"some bytes")
    await store.put(path, digest)
    assert await store.claim("one") == set()
    assert await store.claim("one") == set()
    other = await started(root, tmp_path / "other cache")
    assert await other.claim("two") == {"one"}
    assert await store.claim("one") == {"two"}
    assert [blob.digest for blob in await store.digests()] == [digest]
    files, prefix = fsspec.core.url_to_fs(root)
    files.rm_file(f"{prefix}/registries/one")
    assert await other.claim("two") == set()


@pytest.mark.parametrize("digest", ["", "abc", "A" * 64, "../" + "a" * 61, "a" * 65, "a" * 63 + "\n"])
async def test_what_is_no_digest_is_refused(tmp_path: Path, make_file: MakeFile, digest: str) -> None:
    store = await started(str(tmp_path / "root"), tmp_path / "cache")
    for call in (store.fetch, store.delete, lambda digest: store.put(make_file(b"x")[1], digest)):
        with pytest.raises(InvalidInput, match="digest"):
            await call(digest)


async def test_leftovers_of_interrupted_writes_go_at_start(tmp_path: Path, make_file: MakeFile) -> None:
    digest, _ = make_file(b"x")
    old = [
        tmp_path / "root" / "aa" / f".{digest}.0011.partial",
        tmp_path / "root" / "partial" / f"{digest}.0011",
        tmp_path / "cache" / "aa" / f".{digest}.0022.partial",
    ]
    young = [path.with_name(path.name.replace("00", "99")) for path in old]
    for path in old + young:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    for path in old:
        os.utime(path, (time.time() - 7200, time.time() - 7200))
    store = await started(f"file://{tmp_path / 'root'}", tmp_path / "cache")
    assert await store.digests() == []
    await started(str(tmp_path / "root"), tmp_path / "cache")
    assert [path.exists() for path in old] == [False] * 3
    assert [path.exists() for path in young] == [True] * 3


async def test_a_local_file_is_read_once_until_it_changes(
    tmp_path: Path, make_file: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await started(str(tmp_path / "root"), tmp_path / "cache")
    digest, path = make_file(b"some bytes")
    await store.put(path, digest)
    stored = await store.fetch(digest)
    with monkeypatch.context() as patch:
        patch.setattr("hashlib.file_digest", lambda *_: pytest.fail("was read again"))
        assert await store.fetch(digest) == stored
    stored.write_bytes(b"same size!")
    with pytest.raises(CorruptBlob, match="other bytes"):
        await store.fetch(digest)


async def test_a_bad_copy_in_the_cache_is_fetched_anew(tmp_path: Path, make_file: MakeFile, shaky: Any) -> None:
    store = await started("shaky://blobs", tmp_path / "cache")
    digest, path = make_file(b"some bytes")
    await store.put(path, digest)
    copy = await store.fetch(digest)
    await store.fetch(digest)
    assert shaky.reads.count(digest) == 1
    copy.write_bytes(b"same size!")
    assert (await store.fetch(digest)).read_bytes() == b"some bytes"
    assert shaky.reads.count(digest) == 2


async def test_copies_outlive_a_restart_but_are_verified(tmp_path: Path, make_file: MakeFile, shaky: Any) -> None:
    store = await started("shaky://blobs", tmp_path / "cache")
    digest, path = make_file(b"some bytes")
    await store.put(path, digest)
    copy = await store.fetch(digest)
    assert await (await started("shaky://blobs", tmp_path / "cache")).fetch(digest) == copy
    assert shaky.reads.count(digest) == 1
    copy.write_bytes(b"same size!")
    restarted = await started("shaky://blobs", tmp_path / "cache")
    assert (await restarted.fetch(digest)).read_bytes() == b"some bytes"


async def test_concurrent_fetches_are_one_download_and_do_not_block(
    tmp_path: Path, make_file: MakeFile, shaky: Any
) -> None:
    store = await started("shaky://blobs", tmp_path / "cache")
    digest, path = make_file(b"some bytes")
    await store.put(path, digest)
    shaky.seconds = 0.3
    fetches = [asyncio.create_task(store.fetch(digest)) for _ in range(8)]
    ticks = 0
    while not all(fetch.done() for fetch in fetches[1:]):
        await asyncio.sleep(0.01)
        ticks += 1
        fetches[0].cancel()
    assert fetches[0].cancelled()
    assert {fetch.result().read_bytes() for fetch in fetches[1:]} == {b"some bytes"}
    assert shaky.reads.count(digest) == 1
    assert ticks > 10


async def test_what_was_used_longest_ago_leaves_the_cache(tmp_path: Path, make_file: MakeFile, shaky: Any) -> None:
    store = await started("shaky://blobs", tmp_path / "cache", cache_bytes=25)
    digests = {}
    for content in (b"a" * 10, b"b" * 10, b"c" * 10):
        digests[content[:1]], path = make_file(content)
        await store.put(path, digests[content[:1]])
    await store.fetch(digests[b"a"])
    await store.fetch(digests[b"b"])
    await store.fetch(digests[b"a"])
    await store.fetch(digests[b"c"])
    assert cached(tmp_path / "cache") == {b"a" * 10, b"c" * 10}


async def test_the_order_of_use_outlives_a_restart(tmp_path: Path, make_file: MakeFile, shaky: Any) -> None:
    store = await started("shaky://blobs", tmp_path / "cache")
    one, one_path = make_file(b"a" * 10)
    two, two_path = make_file(b"b" * 10)
    await store.put(one_path, one)
    await store.put(two_path, two)
    for digest in (one, two, one):
        await store.fetch(digest)
    await started("shaky://blobs", tmp_path / "cache", cache_bytes=10)
    assert cached(tmp_path / "cache") == {b"a" * 10}


async def test_a_lease_protects_from_eviction_and_delete(tmp_path: Path, make_file: MakeFile, shaky: Any) -> None:
    store = await started("shaky://blobs", tmp_path / "cache", cache_bytes=15)
    one, one_path = make_file(b"a" * 10)
    two, two_path = make_file(b"b" * 10)
    await store.put(one_path, one)
    await store.put(two_path, two)
    async with store.lease(one) as path:
        async with store.lease(one):
            await store.fetch(two)
        await store.fetch(two)
        assert path.read_bytes() == b"a" * 10
        await store.delete(one)
        assert path.read_bytes() == b"a" * 10
    assert not path.exists()
    assert cached(tmp_path / "cache") == {b"b" * 10}
    with pytest.raises(CorruptBlob, match="missing"):
        async with store.lease(one):
            pytest.fail("there is nothing to lease")


async def test_a_deleted_blob_leaves_the_cache_with_its_last_lease(
    tmp_path: Path, make_file: MakeFile, shaky: Any
) -> None:
    store = await started("shaky://blobs", tmp_path / "cache")
    digest, path = make_file(b"some bytes")
    await store.put(path, digest)
    async with store.lease(digest):
        async with store.lease(digest):
            await store.delete(digest)
        assert cached(tmp_path / "cache") == {b"some bytes"}
    assert cached(tmp_path / "cache") == set()


async def test_an_answer_that_does_not_come(tmp_path: Path, make_file: MakeFile, shaky: Any) -> None:
    store = await started("shaky://blobs", tmp_path / "cache")
    digest, path = make_file(b"some bytes")
    shaky.away = True
    for call in (lambda: store.put(path, digest), lambda: store.fetch(digest)):
        with pytest.raises(BlobsUnavailable, match="ConnectionError") as failure:
            await call()
        assert "secret" not in str(failure.value)
    shaky.away = False
    await store.put(path, digest)
    await store.fetch(digest)


async def test_a_root_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nosuch://"):
        BlobStore("nosuch://secret@place", tmp_path / "cache", 1)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BlobsUnavailable):
        await started(str(tmp_path / "file" / "root"), tmp_path / "cache")


async def test_what_others_put_after_a_listing_is_found(tmp_path: Path, make_file: MakeFile, listing: None) -> None:
    one, other = [await started("listing://blobs", tmp_path / name) for name in ("one", "other")]
    (first, path), (second, beside) = make_file(b"1"), make_file(b"12")
    assert first[:2] == second[:2]
    await one.put(path, first)
    assert [blob.digest for blob in await one.digests()] == [first]
    await other.put(beside, second)
    assert (await one.fetch(second)).read_bytes() == b"12"
    assert {blob.digest for blob in await one.digests()} == {first, second}


def test_s3_is_at_hand(tmp_path: Path) -> None:
    """Not reached: nothing here speaks its protocol. The chart's example names it, so its file system is installed."""
    BlobStore("s3://bucket/polyad", tmp_path / "cache", 10**6)
