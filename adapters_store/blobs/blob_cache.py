"""Local copies of remote blobs, bounded in size; what was used longest ago goes first."""

import os
import threading
import time
from collections import Counter, OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from polyad.adapters_store.atomic_file import atomic_file, remove_partials
from polyad.adapters_store.blobs.digest import VerifiedFiles, copy_checked, is_digest
from polyad.adapters_store.blobs.root import LEFTOVER_SECONDS


class BlobCache:
    """For one process; its methods block, but for hold and release, and may be called from any thread.

    Held blobs stay even where they alone are over `max_bytes`.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._verified = VerifiedFiles()
        self._lock = threading.Lock()
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._held_lock = threading.Lock()
        self._held: Counter[str] = Counter()
        self._dropped: set[str] = set()

    def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        remove_partials(self._folder, LEFTOVER_SECONDS)
        files = [(path.stat(), path) for path in self._folder.glob("??/*") if is_digest(path.name)]
        with self._lock:
            self._sizes.clear()
            for status, path in sorted(files, key=lambda item: item[0].st_atime_ns):
                self._sizes[path.name] = status.st_size
            self._evict()

    def get(self, digest: str) -> Path | None:
        """The verified copy; a bad one is removed."""
        path = self._path(digest)
        try:
            good = self._verified.has(path, digest)
        except FileNotFoundError:
            good = False
        with self._lock:
            if good and digest in self._sizes:
                self._sizes.move_to_end(digest)
                self._mark_used(path)
                return path
            self._remove(digest)
        return None

    def add(self, digest: str, source: BinaryIO) -> Path:
        """Copy a blob in and make room for it. CorruptBlob, and nothing is kept, if its bytes are others."""
        path = self._path(digest)
        path.parent.mkdir(exist_ok=True)
        with atomic_file(path) as file:
            copy_checked(source, file, digest, "the stored blob")
        self._verified.add(path)
        with self._lock:
            self._sizes[digest] = path.stat().st_size
            self._sizes.move_to_end(digest)
            self._dropped.discard(digest)
            self._evict(newest=digest)
        return path

    def drop(self, digest: str) -> None:
        """Remove the copy, at once or when it is no longer held."""
        with self._lock:
            if digest in self._held:
                self._dropped.add(digest)
            else:
                self._remove(digest)

    def hold(self, digest: str) -> None:
        """Keep the copy, present or future, until as many calls of release. Never blocks on files."""
        with self._held_lock:
            self._held[digest] += 1

    def release(self, digest: str) -> None:
        """Undo one hold; never blocks on files, so what may go now goes with the next trim."""
        with self._held_lock:
            self._held[digest] -= 1
            if not self._held[digest]:
                del self._held[digest]

    def trim(self) -> None:
        """Remove what was dropped or is over the bound, and no longer held."""
        with self._lock:
            for digest in self._dropped - self._held.keys():
                self._remove(digest)
            self._evict()

    def _evict(self, newest: str | None = None) -> None:
        total = sum(self._sizes.values())
        for digest, size in list(self._sizes.items()):
            if total <= self._max_bytes:
                return
            if digest not in self._held and digest != newest:
                self._remove(digest)
                total -= size

    def _remove(self, digest: str) -> None:
        path = self._path(digest)
        path.unlink(missing_ok=True)
        self._verified.forget(path)
        self._sizes.pop(digest, None)
        self._dropped.discard(digest)

    def _mark_used(self, path: Path) -> None:
        # the order of use outlives a restart as the time of access; the time of change must stay as verified
        with suppress(OSError):
            status = path.stat()
            os.utime(path, ns=(time.time_ns(), status.st_mtime_ns))

    def _path(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest
