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


@pytest.fixture
def make_file(tmp_path: Path) -> Callable[[bytes], Stored]:
    def make(content: bytes) -> Stored:
        digest = hashlib.sha256(content).hexdigest()
        path = tmp_path / f"made-{digest}"
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
