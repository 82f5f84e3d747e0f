import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

STARTING = """
import asyncio
from polyad.serve.cli.lifetime import Lifetime

async def main():
    try:
        print("starting", flush=True)
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.2)
        print("cleaned up", flush=True)

Lifetime().run(main())
"""
# As the server does: uvicorn ends by the signal and raises it again, while the rest has yet to be put away.
SERVING = """
import asyncio, atexit, uvicorn
from polyad.serve.cli.lifetime import Lifetime

lifetime = Lifetime()

async def app(scope, receive, send):
    pass

class Announced(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        print("serving", flush=True)

async def main():
    try:
        lifetime.serving = True
        await Announced(uvicorn.Config(app, port=0, log_level="critical", lifespan="off")).serve()
    finally:
        await asyncio.sleep(0.2)
        print("cleaned up", flush=True)

atexit.register(print, "end")
lifetime.run(main())
"""

BUILD_S = 100
# The engine is built by a thread, which starts processes that ignore SIGTERM; none of them hears of a cancelled task.
BUILDING = f"""
import asyncio, multiprocessing, os, signal, time
from polyad.serve.cli.lifetime import Lifetime

fork = multiprocessing.get_context("fork")

def worker():
    print(os.getpid(), flush=True)
    time.sleep({BUILD_S})

def engine():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(os.getpid(), flush=True)
    fork.Process(target=worker).start()
    time.sleep({BUILD_S})

def build():
    print("building", flush=True)
    fork.Process(target=engine).start()
    time.sleep({BUILD_S})

Lifetime().run(asyncio.to_thread(build))
"""
UNPACKING = """
import time
from polyad.serve.cli.lifetime import end_on_sigterm

end_on_sigterm()
try:
    print("unpacking", flush=True)
    time.sleep(60)
finally:
    print("cleaned up", flush=True)
"""


@contextmanager
def program(code: str) -> Iterator[subprocess.Popen[str]]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            yield child
        finally:
            child.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_before_serving_cancels_the_start(number: signal.Signals) -> None:
    with program(STARTING) as child:
        child.send_signal(number)
        out, err = child.communicate(timeout=60)
    assert out == "cleaned up\n"
    assert err == f"polyad: stopped by {number.name} before it served\n"
    assert child.returncode == 128 + number


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_while_serving_ends_in_good_order(number: signal.Signals) -> None:
    with program(SERVING) as child:
        child.send_signal(number)
        out, err = child.communicate(timeout=60)
    assert (out, err) == ("cleaned up\nend\n", "")
    assert child.returncode == 0


def test_signal_does_not_wait_for_an_engine_that_is_being_built() -> None:
    with program(BUILDING) as child:
        assert child.stdout is not None
        processes = [int(child.stdout.readline()) for _ in ("engine", "worker")]
        began = time.monotonic()
        child.terminate()
        _, err = child.communicate(timeout=60)
    assert child.returncode == 128 + signal.SIGTERM
    assert err == "polyad: stopped by SIGTERM before it served\n"
    assert time.monotonic() - began < BUILD_S / 2
    assert [process for process in processes if lives(process)] == []


def lives(process: int) -> bool:
    """Whether it still runs after a while; one that is dead and not yet buried does not."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return False
        except FileNotFoundError:
            return False
        time.sleep(0.05)
    return True


def test_sigterm_unwinds_what_came_before() -> None:
    with program(UNPACKING) as child:
        child.terminate()
        out, err = child.communicate(timeout=60)
    assert (out, err, child.returncode) == ("cleaned up\n", "", 128 + signal.SIGTERM)


@pytest.mark.parametrize("code", [STARTING, SERVING])
def test_second_signal_ends_at_once(code: str) -> None:
    slow = code.replace(
        "    finally:\n", '    finally:\n        print("stopping", flush=True)\n        await asyncio.sleep(60)\n'
    )
    with program(slow) as child:
        assert child.stdout is not None
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "stopping\n"
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=30)
    assert (out, child.returncode) == ("", 128 + signal.SIGINT)


def test_error_of_the_server_comes_out() -> None:
    code = STARTING.replace('print("starting", flush=True)', 'print("starting", flush=True); raise OSError("reason")')
    with program(code) as child:
        out, err = child.communicate(timeout=60)
    assert out == "cleaned up\n"
    assert err.endswith("OSError: reason\n")
    assert child.returncode == 1
