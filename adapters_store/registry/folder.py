"""The folder of an embedded Redis: who owns it, where its socket is, and no stale server on it."""

import contextlib
import fcntl
import hashlib
import os
import signal
import socket
import stat
import struct
import tempfile
import time
from pathlib import Path

from polyad.adapters_store.errors import ConfigError

_SOCKET_PATH_LIMIT = 103
_STALE_S = 5.0


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock: int | None = None

    @property
    def socket(self) -> Path:
        inside = self.path / "redis.sock"
        return inside if len(os.fsencode(inside)) <= _SOCKET_PATH_LIMIT else self._short() / "redis.sock"

    def acquire(self) -> None:
        """Own the folder until `release`, or until this process ends. Raise ConfigError if another one has it."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"redis folder: {self.path} cannot be used: {error}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise ConfigError(f"redis folder: {self.path} is in use by another server") from error
        self._lock = lock
        try:
            if self.socket.parent != self.path:
                self._make_short()
            self._end_stale_server()
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _short(self) -> Path:
        digest = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"polyad-{os.getuid()}-{digest}"

    def _make_short(self) -> None:
        folder = self._short()
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        # The parent is open to all users: one of them may have been there first.
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise ConfigError(f"redis folder: {folder} must be a folder that only this user can enter")
        if len(os.fsencode(self.socket)) > _SOCKET_PATH_LIMIT:
            raise ConfigError(f"redis folder: {self.path} and TMPDIR are both too long for a unix socket")

    def _end_stale_server(self) -> None:
        """End a server that outlived an earlier owner. Every acknowledged write is on disk, so a kill is safe."""
        deadline = time.monotonic() + _STALE_S
        while (pid := _listener(self.socket)) is not None:
            if pid <= 0 or time.monotonic() > deadline:
                raise ConfigError(f"redis folder: a server that cannot be ended listens on {self.socket}")
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)


def _listener(path: Path) -> int | None:
    """The process that listens on a unix socket, as the kernel knows it: no pid file can be that right."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.setblocking(False)
            probe.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError as error:
            raise ConfigError(f"redis folder: cannot find out who listens on {path}: {error}") from error
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[0])
