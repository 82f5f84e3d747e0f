import json
import logging
import sys

from polyad.serve.cli.json_log import JsonLines


def test_a_line_is_one_object_with_what_the_record_brings() -> None:
    record = logging.makeLogRecord(
        {"name": "polyad.x", "levelno": 20, "levelname": "INFO", "msg": "a %s\nb", "args": ("c",)}
    )
    record.tenant, record.request_id = "acme", "7"
    line = JsonLines().format(record)
    entry = json.loads(line)
    assert "\n" not in line and entry.pop("time").endswith("+00:00")
    assert entry == {
        "level": "info",
        "logger": "polyad.x",
        "message": "a c\nb",
        "tenant": "acme",
        "request_id": "7",
    }


def test_an_exception_is_in_it() -> None:
    try:
        raise ZeroDivisionError("x")
    except ZeroDivisionError:
        record = logging.makeLogRecord({"msg": "failed", "exc_info": sys.exc_info()})
    assert "ZeroDivisionError: x" in json.loads(JsonLines().format(record))["exception"]
