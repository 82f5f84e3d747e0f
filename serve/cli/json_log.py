"""Logs for machines: one JSON object a line."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

_FORMATTED = frozenset({"message", "asctime"})


class JsonLines(logging.Formatter):
    """`time`, `level`, `logger`, `message`, and whatever a record brings beside: request_id, tenant, adapter, ..."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        # What every record has, vLLM's own additions among it, is no news; the rest was given as `extra`.
        known = vars(logging.makeLogRecord({})).keys() | _FORMATTED
        entry |= {name: value for name, value in vars(record).items() if name not in known}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)
