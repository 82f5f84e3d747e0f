"""From the first step of a server to its last, on an event loop that SIGINT and SIGTERM can end."""

import asyncio
import atexit
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

_BY_SIGNAL = 128
_CHILD_S = 5.0


class Lifetime:
    """Until `serving` is set, a signal ends the start; from then on uvicorn ends the server in good order.

    A second signal ends the process at once.
    """

    def __init__(self) -> None:
        self.serving = False
        self._signal: int | None = None

    def run(self, main: Coroutine[Any, Any, None]) -> NoReturn:
        """Run to the end, which is the end of the process: by 0, or by 128 + signal if one came before it served."""
        with asyncio.Runner(loop_factory=_loop) as runner:
            loop = runner.get_loop()
            task = loop.create_task(main)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._handler(loop, task))
            try:
                loop.run_until_complete(task)
            except asyncio.CancelledError:
                if self._signal is None:
                    raise
                click.echo(f"polyad: stopped by {signal.Signals(self._signal).name} before it served", err=True)
                _leave(_BY_SIGNAL + self._signal)
            atexit._run_exitfuncs()
            _leave(0)

    def _handler(
        self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]
    ) -> Callable[[int, FrameType | None], None]:
        def handle(number: int, _: FrameType | None) -> None:
            if self._signal is not None:
                _leave(_BY_SIGNAL + number)
            self._signal = number
            # uvicorn took over at the start of serving, and hands on what it has already obeyed.
            if not self.serving:
                loop.call_soon_threadsafe(task.cancel)

        return handle


def _leave(code: int) -> NoReturn:
    """End at once, with all children: a thread that builds an engine cannot be told to stop."""
    children = {child.pid: child for child in multiprocessing.active_children() if child.pid is not None}
    for pid, child in children.items():
        for process in [pid, *_descendants(pid)]:
            # A process that is still importing hears no other signal.
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        child.join(_CHILD_S)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _descendants(process: int) -> list[int]:
    """Its children, their children and so on, as far as the system tells."""
    found = []
    for listed in Path("/proc").glob(f"{process}/task/*/children"):
        with suppress(OSError):
            found += [int(child) for child in listed.read_text().split()]
    return found + [later for child in found for later in _descendants(child)]


def _loop() -> asyncio.AbstractEventLoop:
    if find_spec("uvloop") is None:
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


def end_on_sigterm() -> None:
    """Until `Lifetime.run`, let SIGTERM unwind the stack as SIGINT does, so that half-made files are removed."""

    def handle(number: int, _: FrameType | None) -> None:
        raise SystemExit(_BY_SIGNAL + number)

    signal.signal(signal.SIGTERM, handle)
