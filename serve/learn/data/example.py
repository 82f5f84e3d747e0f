"""What a run trains on, or holds against its candidate: one example for each thing that feedback says."""

import hashlib
import json
from typing import Any, Literal

from polyad.adapters_store.feedback import Message
from polyad.adapters_store.feedback.records import Record

Kind = Literal["sft", "dpo", "kto"]
Prompt = tuple[Message, ...] | str


class Example(Record):
    """`sft`: `answer` is to be learnt. `dpo`: it is better than `rejected`. `kto`: it is `desirable`, or is not.

    `ended` says that the answer ended by itself: only then is its end learnt. `event` is the feedback that it comes
    from, `users` are the end users whose data it holds, `version` is the one that had answered.
    """

    kind: Kind
    prompt: Prompt
    answer: str
    ended: bool = True
    rejected: str | None = None
    rejected_ended: bool = True
    desirable: bool | None = None
    event: str
    response: str
    users: tuple[str, ...] = ()
    version: int
    task: str = ""
    expires: float

    @property
    def content(self) -> dict[str, Any]:
        """What it teaches, without where it comes from."""
        return self.model_dump(include={"kind", "prompt", "answer", "ended", "rejected", "rejected_ended", "desirable"})

    @property
    def id(self) -> str:
        """The same for examples that teach the same."""
        return digest_of(self.content)

    @property
    def group(self) -> str:
        """The same for examples of one prompt."""
        return digest_of(self.model_dump(include={"prompt"}))


class Decision(Record):
    """What became of one event or example: whether it was kept, by which rule it was not, and why."""

    event: str
    example: str = ""
    kind: str = ""
    kept: bool
    by: str
    reason: str


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
