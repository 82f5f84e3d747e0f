import logging
import re
import time

import pytest

from polyad.serve.cli.progress import LogLines, Progress

LINE = r"polyad +\d+\.\d s  "


def test_steps_are_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        progress("starting the engine")
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(LINE + "starting the engine\n", err)


def test_long_step_is_repeated_until_it_settles(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(repeat_s=0.05) as progress:
        progress("starting the engine")
        deadline = time.monotonic() + 60
        seen = ""
        while seen.count("still: starting the engine") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
            seen += capsys.readouterr().err
        assert seen.count("still: starting the engine") >= 2
        progress.settle()
        time.sleep(0.1)
        capsys.readouterr()
        time.sleep(0.3)
        assert capsys.readouterr().err == ""


def test_log_records_have_the_same_form() -> None:
    formatter = LogLines(Progress())
    warning = logging.LogRecord("polyad.x", logging.WARNING, "", 0, "lost %s\n\x1b", ("Redis",), None)
    assert re.fullmatch(LINE + r"warning: lost Redis \?", formatter.format(warning))
    info = logging.LogRecord("polyad.x", logging.INFO, "", 0, "back", (), None)
    assert re.fullmatch(LINE + "back", formatter.format(info))


def test_log_record_keeps_its_traceback() -> None:
    try:
        raise ValueError("reason")
    except ValueError as error:
        trace = (ValueError, error, error.__traceback__)
    record = logging.LogRecord("polyad.x", logging.ERROR, "", 0, "failed", (), trace)
    assert "ValueError: reason" in LogLines(Progress()).format(record).splitlines()[-1]
