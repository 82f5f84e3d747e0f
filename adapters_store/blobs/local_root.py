"""Blobs in a local folder, used where they lie."""

import time
from pathlib import Path

from polyad.adapters_store.atomic_file import atomic_file, atomic_link, remove_partials
from polyad.adapters_store.blobs.digest import VerifiedFiles, check_file, copy_checked, is_digest
from polyad.adapters_store.blobs.root import LEFTOVER_SECONDS, unavailable
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
            if target.exists() and self._verified.has(target, digest):
                return
            target.parent.mkdir(exist_ok=True)
            if not just_written:
                check_file(path, digest, "the file to store")
            try:
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

    def delete(self, digest: str) -> None:
        path = self._path(digest)
        with unavailable("delete"):
            path.unlink(missing_ok=True)
        self._verified.forget(path)

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

    def hold(self, digest: str) -> None:
        pass

    def release(self, digest: str) -> None:
        pass

    def trim(self) -> None:
        pass

    def _path(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest
