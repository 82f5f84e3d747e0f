"""The blob store: content-addressed, verified, and never blocking the event loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from polyad.adapters_store.blobs.blob_cache import BlobCache
from polyad.adapters_store.blobs.digest import check_digest
from polyad.adapters_store.blobs.local_root import LocalRoot
from polyad.adapters_store.blobs.remote_root import RemoteRoot
from polyad.adapters_store.blobs.root import Root
from polyad.adapters_store.blobs.stored_blob import StoredBlob


class BlobStore:
    """Blobs under `root`: the path of a folder, whose files are used in place, or any fsspec URL (with `://`), behind
    copies in the folder `cache`, which belongs to this process alone and is kept to `cache_bytes`.

    Every method raises BlobsUnavailable when the root does not answer. ConfigError for a root that cannot be used.
    """

    def __init__(self, root: str, cache: Path, cache_bytes: int) -> None:
        self._root: Root
        if "://" in root:
            self._root = RemoteRoot(root.rstrip("/"), BlobCache(cache, cache_bytes))
        else:
            self._root = LocalRoot(Path(root))
        self._fetching: dict[str, asyncio.Task[Path]] = {}

    async def start(self) -> None:
        """Make the folders and remove what interrupted writes left. To be called once, before anything else."""
        await asyncio.to_thread(self._root.start)

    async def put(self, path: Path, digest: str, just_written: bool = False) -> None:
        """Store the file at `path`, whole or not at all; storing it again repairs it and makes it young.

        The file itself may become the blob: it is not to be written to any more.

        CorruptBlob if its bytes do not have the digest; who has `just_written` them and taken it from them may save
        that they are read again for it.
        """
        await asyncio.to_thread(self._root.put, path, check_digest(digest), just_written)

    async def fetch(self, digest: str) -> Path:
        """A local, verified file. It may leave the cache at any time: `lease` keeps it.

        CorruptBlob if the blob is missing or its bytes are others: a version that was registered has lost its data.
        """
        check_digest(digest)
        task = self._fetching.get(digest)
        if task is None:
            task = asyncio.create_task(asyncio.to_thread(self._root.fetch, digest))
            self._fetching[digest] = task
            task.add_done_callback(lambda done: self._fetched(digest, done))
        # one waiter may be cancelled; the others still want the file
        return await asyncio.shield(task)

    @asynccontextmanager
    async def lease(self, digest: str) -> AsyncIterator[Path]:
        """Like `fetch`, and the file stays until the block ends."""
        self._root.hold(check_digest(digest))
        try:
            yield await self.fetch(digest)
        finally:
            self._root.release(digest)
            await asyncio.to_thread(self._root.trim)

    async def refresh(self, digest: str) -> None:
        """Make the blob as young as if it were put now. CorruptBlob as of `fetch`."""
        # No file system of fsspec can be relied on to change a time: the bytes are put again.
        async with self.lease(digest) as path:
            await self.put(path, digest)

    async def delete(self, digest: str, min_age_s: float = 0.0) -> bool:
        """Remove the blob if it is there and was put so long ago; whether it was removed.

        A leased cached copy stays until its lease ends.
        """
        return await asyncio.to_thread(self._root.delete, check_digest(digest), min_age_s)

    async def claim(self, registry: str) -> set[str]:
        """Mark the root as a registry's, if it is not; the other registries that it is marked as being of.

        A registry is named by its `origin`. Its mark is the file `registries/ORIGIN` of the root: who removes that says
        that the bytes are no longer that registry's.
        """
        return await asyncio.to_thread(self._root.claim, registry)

    async def digests(self) -> list[StoredBlob]:
        """Every blob of the root, in no order."""
        return await asyncio.to_thread(self._root.blobs)

    def _fetched(self, digest: str, task: asyncio.Task[Path]) -> None:
        del self._fetching[digest]
        if not task.cancelled():
            # marks it as seen: all waiters may have been cancelled
            task.exception()
