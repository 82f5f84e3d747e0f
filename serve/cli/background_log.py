"""Log lines are written by a thread of their own: whoever reads the log slowly, or not at all, holds up no token."""

import logging
import os
import threading
from collections.abc import Callable
from queue import Full, Queue
from time import monotonic

_STDERR = 2


def _to_stderr(line: bytes) -> None:
    # Not by sys.stderr: whoever waits in it holds a lock that the interpreter wants when it ends.
    while line:
        line = line[os.write(_STDERR, line) :]


class BackgroundLog(logging.Handler):
    """Writes formatted records, in order, from its own thread.

    At most `room` lines wait; those that find no room are left out, and a line says how many there were.
    """

    def __init__(self, formatter: logging.Formatter, write: Callable[[bytes], None] = _to_stderr, room: int = 10_000):
        super().__init__()
        self.setFormatter(formatter)
        self._put = write
        self._queue: Queue[str] = Queue(room)
        self._left_out = 0
        threading.Thread(target=self._write, name="polyad-log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._queue.put_nowait(self.format(record))
        except Full:
            # Under the lock that `logging` holds around this.
            self._left_out += 1
        except Exception:
            # As every handler does: a record that cannot be formatted is no failure of the request that wrote it.
            self.handleError(record)

    def flush(self, seconds: float = 2.0) -> None:
        """Until all is written, but no longer than this: nobody may be reading."""
        ends = monotonic() + seconds
        with self._queue.all_tasks_done:
            while self._queue.unfinished_tasks and (left := ends - monotonic()) > 0:
                self._queue.all_tasks_done.wait(left)

    def close(self) -> None:
        self.flush()
        super().close()

    def _write(self) -> None:
        while True:
            line = self._queue.get()
            try:
                if self._left_out:
                    self._tell(self._left_out)
                self._put(line.encode(errors="replace") + b"\n")
            except OSError:
                # Whoever read it may come back: the next line is tried again, and says how many are missing.
                self._count(1)
            self._queue.task_done()

    def _tell(self, count: int) -> None:
        message = "%d log lines were left out: nobody took them in time"
        record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, (count,), None)
        self._put(self.format(record).encode() + b"\n")
        self._count(-count)

    def _count(self, more: int) -> None:
        self.acquire()
        self._left_out += more
        self.release()
