"""What one check of the gate saw."""

from typing import Any

from pydantic import Field

from polyad.adapters_store.feedback.records import Record


class Finding(Record):
    """`passed` is None for what is only reported."""

    check: str
    passed: bool | None
    summary: str
    evidence: dict[str, Any] = Field(default_factory=dict)
