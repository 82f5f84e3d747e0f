import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

Stored = tuple[str, Path]


class ShakyFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """fsspec's file system in memory, which counts what is read and can be slow or away."""

    protocol = "shaky"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    reads: ClassVar[list[str]] = []
    seconds: ClassVar[float] = 0.0
    away: ClassVar[bool] = False
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if self.away:
            raise ConnectionError("secret-token was refused")
        time.sleep(self.seconds)
        if mode == "rb":
            with self._lock:
                self.reads.append(path.rpartition("/")[2])
        return super()._open(path, mode, **options)


@pytest.fixture
def shaky() -> Iterator[type[ShakyFileSystem]]:
    fsspec.register_implementation("shaky", ShakyFileSystem, clobber=True)
    ShakyFileSystem.store.clear()
    ShakyFileSystem.pseudo_dirs[:] = [""]
    ShakyFileSystem.reads.clear()
    ShakyFileSystem.seconds, ShakyFileSystem.away = 0.0, False
    yield ShakyFileSystem
    ShakyFileSystem.seconds, ShakyFileSystem.away = 0.0, False


class ListingFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """Like s3fs: what was listed is remembered, what is not in a remembered listing is missing, and the writes of other
    processes are not heard of."""

    protocol = "listing"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    cachable = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.listed: dict[str, set[str]] = {}

    def find(self, path: str, **options: Any) -> Any:
        for name in self.store:
            self.listed.setdefault(self._parent(name), set()).add(name)
        return super().find(path, **options)

    def info(self, path: str, **options: Any) -> Any:
        self._look(path)
        return super().info(path, **options)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode == "rb":
            self._look(path)
        else:
            self.invalidate_cache()
        return super()._open(path, mode, **options)

    def invalidate_cache(self, path: str | None = None) -> None:
        self.listed.clear()

    def _look(self, path: str) -> None:
        path = self._strip_protocol(path)
        if path not in self.listed.get(self._parent(path), {path}):
            raise FileNotFoundError(path)


@pytest.fixture
def listing() -> Iterator[None]:
    fsspec.register_implementation("listing", ListingFileSystem, clobber=True)
    yield
    ListingFileSystem.store.clear()
    ListingFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def make_file(tmp_path: Path) -> Callable[[bytes], Stored]:
    def make(content: bytes) -> Stored:
        digest = hashlib.sha256(content).hexdigest()
        path = tmp_path / f"made-{digest}"
        # what was put may be the blob itself
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        return digest, path

    return make


@pytest.fixture(params=["folder", "memory", "file"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "memory":
        yield f"memory://{tmp_path.name}/blobs"
        MemoryFileSystem.store.clear()
    else:
        yield ("file://" if request.param == "file" else "") + str(tmp_path / "root")
