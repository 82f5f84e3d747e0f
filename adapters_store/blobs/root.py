"""Where blobs are kept: a local folder, or anything that fsspec reaches."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from polyad.adapters_store.blobs.stored_blob import StoredBlob
from polyad.adapters_store.errors import BlobsUnavailable, PolyadError

# Interrupted writes are removed once no writer can still be at them.
LEFTOVER_SECONDS = 3600.0
# The folder of a root that has a file for each registry, by its first birth, whose bytes are there.
MARKS = "registries"
MARK = b"A registry of polyad has its bytes here. Remove this file only if that registry is gone for good.\n"


class Root(Protocol):
    """All of it blocks, and raises BlobsUnavailable when the place does not answer."""

    def start(self) -> None: ...

    def put(self, path: Path, digest: str, just_written: bool = False) -> None:
        """What is there already counts as put now."""
        ...

    def fetch(self, digest: str) -> Path:
        """A local file with the right bytes. CorruptBlob if there are none."""
        ...

    def delete(self, digest: str, min_age_s: float = 0.0) -> bool:
        """Remove the blob if it is there and was put so long ago; whether it was removed."""
        ...

    def blobs(self) -> list[StoredBlob]: ...

    def claim(self, registry: str) -> set[str]:
        """Leave a registry's mark in the root; the other registries whose marks are there."""
        ...

    def hold(self, digest: str) -> None:
        """Keep the local file of the digest, present or future, until as many calls of release. Does not block."""
        ...

    def release(self, digest: str) -> None:
        """Does not block."""
        ...

    def trim(self) -> None:
        """Remove local files that are not needed and no longer held."""
        ...


@contextmanager
def unavailable(action: str) -> Iterator[None]:
    """Turn whatever a file system raises into BlobsUnavailable."""
    try:
        yield
    except PolyadError:
        raise
    except Exception as error:
        # each fsspec implementation has errors of its own, many of them no OSError
        raise BlobsUnavailable(f"blob store: {action} failed: {type(error).__name__}") from error
