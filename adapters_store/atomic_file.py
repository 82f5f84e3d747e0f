"""Files that appear whole or not at all."""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PARTIAL_SUFFIX = ".partial"


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that takes the name `path` when the block ends, durably; an error leaves nothing behind."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}{PARTIAL_SUFFIX}")
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(FileNotFoundError):
            partial.unlink()
        raise
    _sync_folder(path.parent)


def atomic_link(source: Path, path: Path) -> None:
    """Give the file `source` the name `path` too, durably, in the place of what was there.

    Raises OSError where that cannot be, as between two file systems.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}{PARTIAL_SUFFIX}")
    os.link(source, partial)
    try:
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()
    _sync_folder(path.parent)


def remove_partials(folder: Path, older_than_seconds: float) -> int:
    """Remove what interrupted writers left under `folder`; young files may belong to a writer that still runs."""
    limit = time.time() - older_than_seconds
    removed = 0
    for partial in folder.rglob(f".*{PARTIAL_SUFFIX}"):
        with suppress(FileNotFoundError):
            if partial.stat().st_mtime < limit:
                partial.unlink()
                removed += 1
    return removed


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
