import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from polyad.serve.cli.background_log import BackgroundLog

ROOM = 8


class Slow:
    """A reader that takes nothing until it is let."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.lines: list[str] = []

    def __call__(self, line: bytes) -> None:
        self.let.wait(60)
        self.lines.append(line.decode().rstrip("\n"))


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def logger(slow: Slow) -> Iterator[logging.Logger]:
    logger = logging.Logger("quiet")
    logger.addHandler(BackgroundLog(logging.Formatter(), slow, ROOM))
    yield logger
    slow.let.set()
    logger.handlers[0].close()


def test_records_keep_their_order(logger: logging.Logger, slow: Slow) -> None:
    slow.let.set()
    for number in range(ROOM):
        logger.info("%d", number)
    logger.handlers[0].flush()
    assert slow.lines == [str(number) for number in range(ROOM)]


def test_who_reads_nothing_holds_up_nobody_and_is_told_what_is_missing(logger: logging.Logger, slow: Slow) -> None:
    for number in range(10 * ROOM):
        logger.info("%d", number)
    slow.let.set()
    logger.handlers[0].flush()
    written = [int(line) for line in slow.lines if line.isdigit()]
    missing = [int(line.split()[0]) for line in slow.lines if "left out" in line]
    assert written == list(range(len(written))) and ROOM <= len(written) <= ROOM + 1
    assert missing == [10 * ROOM - len(written)]


def test_a_reader_that_was_away_is_told_what_it_missed() -> None:
    lines: list[str] = []
    away = threading.Event()

    def write(line: bytes) -> None:
        if away.is_set():
            raise BrokenPipeError
        lines.append(line.decode().rstrip("\n"))

    handler = BackgroundLog(logging.Formatter(), write, ROOM)
    logger = logging.Logger("broken")
    logger.addHandler(handler)
    for message, is_away in (("before", False), ("lost", True), ("after", False)):
        away.set() if is_away else away.clear()
        logger.info(message)
        handler.flush()
    handler.close()
    assert lines[0] == "before" and lines[-1] == "after"
    assert "1 log lines were left out" in lines[1] and len(lines) == 3


def test_a_record_that_cannot_be_formatted_fails_nobody(
    logger: logging.Logger, slow: Slow, capsys: pytest.CaptureFixture[str]
) -> None:
    slow.let.set()
    logger.info("%d", "no number")
    logger.info("goes on")
    logger.handlers[0].flush()
    assert slow.lines == ["goes on"]
    assert "no number" in capsys.readouterr().err


def test_a_flush_does_not_wait_for_ever(logger: logging.Logger) -> None:
    logger.info("nobody reads this")
    handler = logger.handlers[0]
    assert isinstance(handler, BackgroundLog)
    handler.flush(0.05)


def test_a_process_ends_though_nobody_reads_its_log() -> None:
    """A pipe that is full: the program goes on, and ends."""
    code = """
import logging, sys
from polyad.serve.cli.background_log import BackgroundLog
logger = logging.getLogger("polyad")
logger.addHandler(BackgroundLog(logging.Formatter()))
for _ in range(5000):
    logger.warning("x" * 100)
print("went on", flush=True)
"""
    read, write = os.pipe()
    try:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=write, text=True)
        said, _ = process.communicate(timeout=120)
    finally:
        os.close(read)
        os.close(write)
    assert said == "went on\n"
    assert process.returncode == 0


def test_a_record_is_there_when_the_process_ends() -> None:
    code = """
import logging
from polyad.serve.cli.background_log import BackgroundLog
logging.getLogger("polyad").addHandler(BackgroundLog(logging.Formatter()))
logging.getLogger("polyad").warning("the last words")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert ended.stderr == "the last words\n"
