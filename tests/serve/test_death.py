"""kill -9 of each part, under load: what clients see, and that nothing acknowledged is lost."""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from polyad.adapters_store.base_model import BaseModel
from tests.fixtures.adapters import CONFIG, WEIGHTS, write_adapter
from tests.fixtures.answers import TRIES
from tests.fixtures.ports import free_port
from tests.fixtures.processes import ENGINE, REDIS, WORKER, child, family, until
from tests.fixtures.server import ServerProcess, polyad_command

# No test fails for a slow machine: these only end what hangs.
BACK_S = 300.0
PATIENCE_S = 120.0
# Tokens of a stream that is to run when something is killed.
LONG = 900
_OPTIONS = ("--slots", "2", "--max-rank", "16", "--drain-s", str(BACK_S))
PROMPT = "The capital of France is"


@dataclass
class Mortal:
    """A server that tests kill, and what they ask it."""

    model: Path
    state: Path
    port: int
    process: ServerProcess
    expected: str = ""
    http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=PATIENCE_S))

    @property
    def pid(self) -> int:
        return self.process.process.pid

    def start(self) -> None:
        command = polyad_command(self.model, self.state, self.port, *_OPTIONS)
        self.process = ServerProcess(command, self.port, self.state / "server.log").wait_ready()

    def request(self, method: str, path: str, **body: Any) -> httpx.Response:
        return self.http.request(method, self.process.url + path, json=body or None)

    def ready(self) -> dict[str, Any]:
        state: dict[str, Any] = self.request("GET", "/ready").json()
        return state

    def push(self, name: str, folder: Path) -> str:
        files = {"config": (folder / CONFIG).read_bytes(), "weights": (folder / WEIGHTS).read_bytes()}
        answer = self.http.post(f"{self.process.url}/v1/adapters", data={"name": name}, files=files)
        version: str = answer.raise_for_status().json()["version"]
        return version

    def answer(self, model: str) -> str:
        body = {"model": model, "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
        text: str = self.request("POST", "/v1/completions", **body).raise_for_status().json()["choices"][0]["text"]
        return text


@dataclass
class Stream:
    """A long streamed answer, read by a thread; how it ended."""

    url: str
    model: str
    length: int = LONG
    tokens: int = 0
    finished: bool = False
    error: str = ""
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()
        until(lambda: self.tokens > 2 or bool(self.error), PATIENCE_S, "a stream's first tokens")

    @property
    def running(self) -> bool:
        return self.thread.is_alive()

    def _read(self) -> None:
        body = {"model": self.model, "prompt": PROMPT, "max_tokens": self.length, "ignore_eos": True, "stream": True}
        try:
            with httpx.stream("POST", f"{self.url}/v1/completions", json=body, timeout=PATIENCE_S) as response:
                for line in response.iter_lines():
                    self._take(line)
        except httpx.HTTPError as error:
            self.error = repr(error)

    def _take(self, line: str) -> None:
        if line == "data: [DONE]":
            self.finished = not self.error
        elif line.startswith("data: "):
            event = json.loads(line.removeprefix("data: "))
            self.error = self.error or str(event.get("error", ""))
            self.tokens += 1


def running(url: str, *models: str) -> list[Stream]:
    """A stream of each model, all of which run."""
    for _ in range(TRIES):
        streams = [Stream(url, model) for model in models]
        if all(stream.running for stream in streams):
            return streams
    raise AssertionError(f"{TRIES} times streams ended before all of them ran")


@pytest.fixture(scope="module")
def adapters(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    base = BaseModel.from_folder(base_model, base_model.name)
    folder = tmp_path_factory.mktemp("adapters")
    return [write_adapter(folder / str(seed), base, seed=seed, size=0.1) for seed in range(8)]


@pytest.fixture(scope="module")
def mortal(base_model: Path, adapters: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mortal]:
    state, port = tmp_path_factory.mktemp("state"), free_port()
    command = polyad_command(base_model, state, port, *_OPTIONS)
    mortal = Mortal(base_model, state, port, ServerProcess(command, port, state / "server.log"))
    try:
        mortal.process.wait_ready()
        mortal.push("steady", adapters[0])
        mortal.expected = mortal.answer("steady")
        yield mortal
    finally:
        mortal.http.close()
        mortal.process.stop()


@pytest.mark.parametrize("victim", [ENGINE, WORKER])
def test_engine_killed(mortal: Mortal, victim: str) -> None:
    streams = running(mortal.process.url, "steady", mortal.model.name, "steady")
    child(mortal.pid, victim).kill()
    for stream in streams:
        stream.thread.join(PATIENCE_S)
        assert not stream.thread.is_alive(), "a stream hangs after the engine's death"
        assert stream.error, "a stream ended as if it were complete"
    until(lambda: mortal.ready()["status"] == "unavailable", PATIENCE_S, "/ready unavailable")
    refused = mortal.request("POST", "/v1/completions", model="steady", prompt=PROMPT)
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) > 0
    assert refused.json()["error"]["type"] == "EngineUnavailable"
    assert mortal.request("GET", "/v1/adapters/steady").status_code == 200
    took = until(lambda: mortal.ready()["status"] == "ready", BACK_S, "the engine's return")
    print(f"{victim} killed: ready again after {took:.1f} s")
    assert mortal.answer("steady") == mortal.expected


def test_redis_stopped(mortal: Mortal, adapters: list[Path]) -> None:
    mortal.push("moved", adapters[1])
    mortal.push("moved", adapters[2])
    redis = child(mortal.pid, REDIS)
    redis.suspend()
    try:
        until(lambda: mortal.ready()["status"] == "degraded", PATIENCE_S, "/ready degraded")
        refused = mortal.request("PUT", "/v1/adapters/moved/aliases/production", version="v2")
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "RegistryUnavailable")
        assert mortal.answer("steady") == mortal.expected
    finally:
        redis.resume()
    until(lambda: mortal.ready()["status"] == "ready", PATIENCE_S, "/ready ready")
    mortal.request("PUT", "/v1/adapters/moved/aliases/production", version="v2").raise_for_status()


def test_redis_killed(mortal: Mortal, adapters: list[Path]) -> None:
    stream = Stream(mortal.process.url, "steady", length=150)
    mortal.push("kept", adapters[3])
    mortal.push("kept", adapters[4])
    acknowledged = "v1"
    for number in range(30):
        if number == 15:
            child(mortal.pid, REDIS).kill()
        wanted = f"v{number % 2 + 1}"
        answer = mortal.request("PUT", "/v1/adapters/kept/aliases/production", version=wanted)
        assert answer.status_code in (200, 503)
        # A write that was cut off may or may not have been made; one that was acknowledged has been.
        acknowledged = wanted if answer.status_code == 200 else ""
        time.sleep(0.02)
    until(lambda: mortal.ready()["status"] == "ready", PATIENCE_S, "the registry's return")
    if acknowledged:
        assert mortal.request("GET", "/v1/adapters/kept").json()["aliases"]["production"] == acknowledged
    assert mortal.request("GET", "/v1/adapters/kept").json()["versions"] == 2
    stream.thread.join(PATIENCE_S)
    assert stream.finished and not stream.error


def test_server_killed(mortal: Mortal, adapters: list[Path]) -> None:
    mortal.push("promoted", adapters[5])
    mortal.push("promoted", adapters[6])
    mortal.request("PUT", "/v1/adapters/promoted/aliases/production", version="v2").raise_for_status()
    (stream,) = running(mortal.process.url, "steady")
    children = family(mortal.pid)
    mortal.process.process.kill()
    mortal.process.process.wait(PATIENCE_S)
    stream.thread.join(PATIENCE_S)
    assert stream.error
    _, alive = psutil.wait_procs(children, timeout=PATIENCE_S)
    assert alive == [], "processes outlived their server"
    mortal.start()
    assert mortal.request("GET", "/v1/adapters/promoted").json()["aliases"] == {"previous": "v1", "production": "v2"}
    assert mortal.answer("steady") == mortal.expected


def test_second_server_on_the_same_state_is_refused(mortal: Mortal) -> None:
    command = polyad_command(mortal.model, mortal.state, free_port())
    second = subprocess.run(command, capture_output=True, text=True, timeout=BACK_S, check=False)
    assert second.returncode == 2
    assert str(mortal.state) in second.stderr
    assert mortal.answer("steady") == mortal.expected


def test_sigterm_lets_streams_end(mortal: Mortal) -> None:
    stream = Stream(mortal.process.url, "steady", length=80)
    children = family(mortal.pid)
    mortal.process.process.send_signal(signal.SIGTERM)
    assert mortal.process.process.wait(BACK_S + PATIENCE_S) == 0
    stream.thread.join(PATIENCE_S)
    assert stream.finished and not stream.error
    assert psutil.wait_procs(children, timeout=PATIENCE_S)[1] == []
