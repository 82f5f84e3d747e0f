"""Digests: what a blob is stored under, and how its bytes are held against it."""

import hashlib
import re
from pathlib import Path
from typing import BinaryIO

from polyad.adapters_store.errors import CorruptBlob, InvalidInput

_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PIECE_BYTES = 2**20


def is_digest(value: str) -> bool:
    return _DIGEST.fullmatch(value) is not None


def check_digest(value: str) -> str:
    """Return `value`; raise InvalidInput if it is no SHA-256 digest in lower-case hexadecimal."""
    if not is_digest(value):
        raise InvalidInput("digest", value, "64 lower-case hexadecimal digits")
    return value


def copy_checked(source: BinaryIO, target: BinaryIO, digest: str, what: str) -> None:
    """Copy all of `source`; raise CorruptBlob, naming it as `what`, if its bytes do not have the digest."""
    found = hashlib.sha256()
    while piece := source.read(_PIECE_BYTES):
        found.update(piece)
        target.write(piece)
    if found.hexdigest() != digest:
        raise CorruptBlob(f"blob {digest}: {what} has digest {found.hexdigest()}")


def check_file(path: Path, digest: str, what: str) -> None:
    """Raise CorruptBlob, naming the file as `what`, if its bytes do not have the digest."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest:
        raise CorruptBlob(f"blob {digest}: {what} has digest {found}")


class VerifiedFiles:
    """Remembers which files had the right digest, until the file at the path is another or was changed."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[int, int, int]] = {}

    def has(self, path: Path, digest: str) -> bool:
        """Whether the file has the digest; reads it only if it is not known. FileNotFoundError if there is none."""
        identity = _identity(path)
        if self._seen.get(path) == identity:
            return True
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                return False
        self._seen[path] = identity
        return True

    def add(self, path: Path) -> None:
        self._seen[path] = _identity(path)

    def forget(self, path: Path) -> None:
        self._seen.pop(path, None)


def _identity(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
