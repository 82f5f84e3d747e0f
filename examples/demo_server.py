"""`polyad serve --example` as a child of the demo, in a state folder of its own that is removed afterwards."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx

START_S = 480.0
STOP_S = 60.0
GONE_S = 10.0
TAIL = 40
POLL_S = 0.1


class DemoServer:
    """The server with all its processes; whatever is left of them at the end of the block is killed."""

    def __init__(self, base_models: Path) -> None:
        self._base_models = base_models
        self._folder = tempfile.TemporaryDirectory(prefix="polyad-demo-")
        self._lines: list[str] = []
        self._url: str | None = None
        self._quiet = False

    def __enter__(self) -> "DemoServer":
        self._base_models.mkdir(parents=True, exist_ok=True)
        # Unpacked once for `make serve` and every demo.
        Path(self._folder.name, "base-models").symlink_to(self._base_models.absolute())
        kept = {name: value for name, value in os.environ.items() if not name.startswith("POLYAD_")}
        command = [
            "-m",
            "polyad.serve.cli.main",
            "serve",
            "--example",
            "--port",
            "0",
            "--grpc-port",
            "0",
            "--state-dir",
            self._folder.name,
        ]
        self._process = subprocess.Popen(
            [sys.executable, *command],
            env=kept,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()
        # Or a demo that is ended would leave its server behind.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            print("\nThe end of what the server said:\n  " + "\n  ".join(self._lines[-TAIL:]), flush=True)
        for process in _session(self._process.pid):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._process.wait()
        self._folder.cleanup()

    @property
    def state_dir(self) -> Path:
        """Where the server keeps its state: what a worker is pointed at."""
        return Path(self._folder.name)

    def wait_ready(self) -> str:
        """The URL, once the server is ready; its progress is shown. Raises TimeoutError, also if it ended instead."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._url is not None and _answers(f"{self._url}/ready"):
                self._quiet = True
                return self._url
            time.sleep(POLL_S)
        raise TimeoutError(f"the server was not ready (exit code {self._process.poll()})")

    def stop(self) -> int:
        """Its exit code after SIGTERM. Raises TimeoutError."""
        self._process.terminate()
        try:
            return self._process.wait(STOP_S)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"the server still runs {STOP_S:g} s after SIGTERM") from error

    def is_gone(self, seconds: float = GONE_S) -> bool:
        """Whether no process of its session is left, or within that time."""
        deadline = time.monotonic() + seconds
        while self._process.poll() is None or _session(self._process.pid):
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)
        return True

    def _listen(self) -> None:
        for line in self._process.stderr or ():
            self._lines.append(line.rstrip())
            if not self._quiet and line.startswith("polyad "):
                print(f"   {line.rstrip()}", flush=True)
            if match := re.search(r"serving on (http://\S+)", line):
                self._url = match[1]


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _session(leader: int) -> list[int]:
    """The processes of a session that still run."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, session, *_ = status.read_text().rpartition(")")[2].split()
            if int(session) == leader and state != "Z":
                found.append(int(status.parent.name))
    return found
