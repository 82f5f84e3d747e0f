"""Blobs behind any fsspec URL, with a local cache in front."""

import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs  # type: ignore[import-untyped]

from polyad.adapters_store.blobs.blob_cache import BlobCache
from polyad.adapters_store.blobs.digest import copy_checked, is_digest
from polyad.adapters_store.blobs.root import LEFTOVER_SECONDS, MARK, MARKS, unavailable
from polyad.adapters_store.blobs.stored_blob import StoredBlob
from polyad.adapters_store.errors import ConfigError, CorruptBlob

_PARTIAL_FOLDER = "partial"
# How the file systems of fsspec name the time of the last change in what they tell of a file.
_TIME_KEYS = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")


class RemoteRoot:
    """A blob is uploaded under another key and then moved: readers see all of it or nothing."""

    def __init__(self, url: str, cache: BlobCache) -> None:
        try:
            self._files, self._prefix = url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"blobs: {url.partition('://')[0]}:// cannot be used: {error}") from error
        self._cache = cache

    def start(self) -> None:
        with unavailable("start"):
            self._cache.start()
            for path, info in self._find(f"{self._prefix}/{_PARTIAL_FOLDER}").items():
                if _age_seconds(info) > LEFTOVER_SECONDS:
                    self._remove(path)

    def put(self, path: Path, digest: str, just_written: bool = False) -> None:
        partial = f"{self._prefix}/{_PARTIAL_FOLDER}/{digest}.{secrets.token_hex(8)}"
        target = self._path(digest)
        with unavailable("put"):
            try:
                self._files.makedirs(self._files._parent(partial), exist_ok=True)
                with open(path, "rb") as source, self._files.open(partial, "wb") as file:
                    copy_checked(source, file, digest, "the file to store")
                self._check_size(partial, path.stat().st_size, digest)
                self._files.makedirs(self._files._parent(target), exist_ok=True)
                self._files.mv(partial, target)
            except BaseException:
                with suppress(Exception):
                    self._remove(partial)
                raise

    def fetch(self, digest: str) -> Path:
        with unavailable("fetch"):
            cached = self._cache.get(digest)
            if cached is not None:
                return cached
            try:
                with self._fresh.open(self._path(digest), "rb") as source:
                    return self._cache.add(digest, source)
            except FileNotFoundError as error:
                raise CorruptBlob(f"blob {digest}: is missing") from error

    def delete(self, digest: str, min_age_s: float = 0.0) -> bool:
        path = self._path(digest)
        with unavailable("delete"):
            try:
                if _age_seconds(self._fresh.info(path)) < min_age_s:
                    return False
                self._files.rm_file(path)
                removed = True
            except FileNotFoundError:
                removed = False
            self._cache.drop(digest)
        return removed

    def blobs(self) -> list[StoredBlob]:
        with unavailable("list"):
            named = ((path.rpartition("/")[2], info) for path, info in self._find(self._prefix).items())
            return [StoredBlob(name, int(info["size"]), _age_seconds(info)) for name, info in named if is_digest(name)]

    def claim(self, registry: str) -> set[str]:
        folder = f"{self._prefix}/{MARKS}"
        with unavailable("claim"):
            marked = {path.rpartition("/")[2] for path in self._find(folder)}
            if registry not in marked:
                self._files.makedirs(folder, exist_ok=True)
                self._files.pipe_file(f"{folder}/{registry}", MARK)
                # one that came meanwhile must not stay unseen by both
                marked = {path.rpartition("/")[2] for path in self._find(folder)}
            return marked - {registry}

    def hold(self, digest: str) -> None:
        self._cache.hold(digest)

    def release(self, digest: str) -> None:
        self._cache.release(digest)

    def trim(self) -> None:
        with unavailable("trim"):
            self._cache.trim()

    @property
    def _fresh(self) -> Any:
        """The file system without its memory of listings: what is not in one, as others put it there later, would be
        taken for missing."""
        self._files.invalidate_cache()
        return self._files

    def _path(self, digest: str) -> str:
        return f"{self._prefix}/{digest[:2]}/{digest}"

    def _find(self, path: str) -> Mapping[str, Mapping[str, Any]]:
        found: Mapping[str, Mapping[str, Any]] = self._fresh.find(path, detail=True)
        return found

    def _remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._files.rm_file(path)

    def _check_size(self, path: str, size: int, digest: str) -> None:
        stored = self._files.info(path)["size"]
        if stored != size:
            raise CorruptBlob(f"blob {digest}: {stored} of {size} bytes were stored")


def _age_seconds(info: Mapping[str, Any]) -> float:
    value = next((info[key] for key in _TIME_KEYS if info.get(key) is not None), None)
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        value = (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    # a blob of unknown age counts as new: nothing that somebody may still need is collected
    return max(0.0, time.time() - value) if isinstance(value, int | float) else 0.0
