"""A merge as a job: how far it is, and what it came to."""

import json
import time
from dataclasses import dataclass
from typing import Literal

from polyad.adapters_store.registry import MergeEntry, Version

State = Literal["queued", "running", "done", "failed"]


@dataclass(frozen=True, kw_only=True)
class Saved:
    """The name that a merge is registered under, and the alias that points to it."""

    name: str
    alias: str | None = None


@dataclass
class Job:
    """A merge that was asked for. `done` modules `of` so many; `entry` once there is a result, `error` if there is
    none."""

    id: str
    text: str
    created: float
    status: State = "queued"
    done: int = 0
    of: int = 0
    error: str | None = None
    entry: MergeEntry | None = None
    version: Version | None = None

    @property
    def active(self) -> bool:
        return self.status in ("queued", "running")

    @property
    def progress(self) -> str:
        """What other servers are told."""
        return json.dumps({"text": self.text, "created": self.created, "done": self.done, "of": self.of})

    @classmethod
    def of_entry(cls, entry: MergeEntry) -> "Job":
        modules = int(entry.report.get("modules", 0))
        return cls(entry.id, entry.text, entry.created, "done", modules, modules, entry=entry)


def job_of_progress(recipe: str, said: str) -> Job:
    """The job of another server, by what that server said of it."""
    told = json.loads(said) if said else {}
    return Job(
        recipe,
        told.get("text", ""),
        told.get("created", time.time()),
        "running",
        told.get("done", 0),
        told.get("of", 0),
    )
