"""A blob as the root lists it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StoredBlob:
    """`size` in bytes; `age_seconds` since it was written, so that a collector spares what was just pushed."""

    digest: str
    size: int
    age_seconds: float
