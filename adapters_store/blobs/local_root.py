"""Blobs in a local folder, used where they lie."""

import os
import time
from pathlib import Path

from polyad.adapters_store.atomic_file import atomic_file, atomic_link, remove_partials
from polyad.adapters_store.blobs.digest import VerifiedFiles, check_file, copy_checked, is_digest
from polyad.adapters_store.blobs.root import LEFTOVER_SECONDS, MARK, MARKS, unavailable
from polyad.adapters_store.blobs.stored_blob import StoredBlob
from polyad.adapters_store.errors import CorruptBlob


class LocalRoot:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._verified = VerifiedFiles()

    def start(self) -> None:
        with unavailable("start"):
            self._folder.mkdir(parents=True, exist_ok=True)
            remove_partials(self._folder, LEFTOVER_SECONDS)

    def put(self, path: Path, digest: str, just_written: bool = False) -> None:
        target = self._path(digest)
        with unavailable("put"):
            if self._renewed(target, digest):
                return
            target.parent.mkdir(exist_ok=True)
            if not just_written:
                check_file(path, digest, "the file to store")
            try:
                # it may have been written long ago
                os.utime(path)
                atomic_link(path, target)
            except OSError:
                # on another file system
                with open(path, "rb") as source, atomic_file(target) as file:
                    copy_checked(source, file, digest, "the file to store")
            self._verified.add(target)

    def fetch(self, digest: str) -> Path:
        path = self._path(digest)
        with unavailable("fetch"):
            try:
                if self._verified.has(path, digest):
                    return path
            except FileNotFoundError as error:
                raise CorruptBlob(f"blob {digest}: is missing") from error
        raise CorruptBlob(f"blob {digest}: its file has other bytes")

    def delete(self, digest: str, min_age_s: float = 0.0) -> bool:
        path = self._path(digest)
        with unavailable("delete"):
            try:
                if time.time() - path.stat().st_mtime < min_age_s:
                    return False
                path.unlink()
            except FileNotFoundError:
                return False
        self._verified.forget(path)
        return True

    def blobs(self) -> list[StoredBlob]:
        found = []
        with unavailable("list"):
            for path in self._folder.glob("??/*"):
                try:
                    status = path.stat()
                except FileNotFoundError:
                    continue  # deleted since it was listed
                if is_digest(path.name):
                    found.append(StoredBlob(path.name, status.st_size, max(0.0, time.time() - status.st_mtime)))
        return found

    def claim(self, registry: str) -> set[str]:
        folder = self._folder / MARKS
        with unavailable("claim"):
            folder.mkdir(exist_ok=True)
            if not (folder / registry).exists():
                with atomic_file(folder / registry) as file:
                    file.write(MARK)
            return {path.name for path in folder.iterdir() if not path.name.startswith(".")} - {registry}

    def hold(self, digest: str) -> None:
        pass

    def release(self, digest: str) -> None:
        pass

    def trim(self) -> None:
        pass

    def _renewed(self, path: Path, digest: str) -> bool:
        """Whether the right bytes are there, which are young now."""
        try:
            if not self._verified.has(path, digest):
                return False
            os.utime(path)
            self._verified.add(path)
        except OSError:
            # missing, removed just now, or another user's: it is put
            return False
        return True

    def _path(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest
