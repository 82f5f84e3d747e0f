"""What a starting server says of itself, on stderr: whatever takes long is seen to go on."""

import logging
import threading
import time
from types import TracebackType

import click

from polyad.serve.cli.printable import one_line

_REPEAT_S = 5.0


class Progress:
    """Called with each step; repeats the last one while it goes on, until `settle`."""

    def __init__(self, repeat_s: float = _REPEAT_S) -> None:
        self._repeat_s = repeat_s
        self._began = time.monotonic()
        self._step = ""
        self._changed = threading.Event()
        self._settled = False
        self._repeater = threading.Thread(target=self._repeat, name="polyad-progress", daemon=True)

    def __enter__(self) -> "Progress":
        self._repeater.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.settle()
        self._repeater.join()

    def __call__(self, step: str) -> None:
        self._step = step
        self._changed.set()
        click.echo(self.line(step), err=True)

    def settle(self) -> None:
        """From now on nothing is repeated."""
        self._settled = True
        self._changed.set()

    def line(self, text: str) -> str:
        """The text behind the seconds since the start."""
        return f"polyad {time.monotonic() - self._began:6.1f} s  {text}"

    def _repeat(self) -> None:
        while not self._settled:
            if self._changed.wait(self._repeat_s):
                self._changed.clear()
            elif self._step:
                click.echo(self.line(f"still: {self._step}"), err=True)


class LogLines(logging.Formatter):
    """Log records in the form of the progress lines."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return self._progress.line(level + one_line(record.getMessage())) + trace
