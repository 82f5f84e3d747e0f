"""What is kept of interactions, of feedback on them, and of runs."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from polyad.adapters_store.feedback.schedule import Schedule

MAX_TEXT = 65_536
MAX_COMMENT = 4_096
MAX_LABELS = 16
MAX_ANSWERS = 128

Thumb = Literal["up", "down"]
Trigger = Literal["count", "age", "schedule", "demand"]
Mode = Literal["automatic", "ask", "off"]
State = Literal[
    "queued",
    "collecting",
    "training",
    "gating",
    "waiting",
    "canary",
    "published",
    "rejected",
    "failed",
    "cancelled",
    "empty",
]
ENDED: frozenset[State] = frozenset({"published", "rejected", "failed", "cancelled", "empty"})


class Record(BaseModel):
    # Fields that a newer release wrote are ignored: processes of two releases may share one Redis.
    model_config = ConfigDict(frozen=True, extra="ignore")


class Message(Record):
    role: str
    content: str


class Answer(Record):
    """One of a response's choices. `ended` says that it ended by itself, and was not cut off."""

    text: str
    ended: bool


class Interaction(Record):
    """One request and what answered it. `prompt` is a conversation, or the text of a completion.

    `user` is the end user as the client named him. `created` and `expires` are Unix seconds.
    """

    id: str
    tenant: str
    adapter: str
    version: int
    prompt: tuple[Message, ...] | str
    answers: tuple[Answer, ...]
    user: str | None = None
    sampling: dict[str, Any] = {}
    created: float
    expires: float


class Feedback(Record):
    """One verdict on one response; at least one of the kinds is there. `answer` is the index of the choice it is on.

    `preferred` is the index of the choice that is better than all others of the response.
    """

    id: Annotated[str, Field(min_length=1, max_length=128)]
    response: Annotated[str, Field(min_length=1, max_length=256)]
    thumb: Thumb | None = None
    score: Annotated[int, Field(ge=1, le=5)] | None = None
    correction: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)] | None = None
    preferred: Annotated[int, Field(ge=0, lt=MAX_ANSWERS)] | None = None
    comment: Annotated[str, Field(max_length=MAX_COMMENT)] | None = None
    labels: Annotated[tuple[Annotated[str, Field(max_length=64)], ...], Field(max_length=MAX_LABELS)] = ()
    answer: Annotated[int, Field(ge=0, lt=MAX_ANSWERS)] = 0
    user: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    created: float = 0.0


class Queued(Record):
    """Feedback in the stream of its adapter, under the entry that Redis gave it."""

    entry: str
    feedback: Feedback


class Score(Record):
    """How many thumbs (and scores) the answers of one version got; of each user only so many count."""

    up: int = 0
    down: int = 0


class Policy(Record):
    """How an adapter learns. `settings` is for the worker alone, which checks it when it is set.

    Interactions are kept for `keep_s` seconds. `automatic` runs begin with `min_events` events, or with any that is
    older than `max_age_s`; or, where there is a `schedule`, at its times alone, with whatever there is. A version that
    passed the gate answers `canary_share` of the requests for the adapter's name until `canary_events` verdicts on it
    are in, or `canary_s` seconds are over; of one user, `canary_user_cap` verdicts on a version count.
    """

    mode: Mode = "off"
    keep_s: Annotated[int, Field(ge=60, le=365 * 86_400)] = 7 * 86_400
    min_events: Annotated[int, Field(ge=1, le=100_000)] = 50
    max_age_s: Annotated[float, Field(ge=1)] = 86_400
    schedule: Schedule | None = None
    retry_s: Annotated[float, Field(ge=0)] = 600
    canary_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    canary_events: Annotated[int, Field(ge=1, le=100_000)] = 20
    canary_user_cap: Annotated[int, Field(ge=1, le=100_000)] = 5
    canary_s: Annotated[float, Field(ge=0)] = 3600
    settings: dict[str, Any] = {}

    @property
    def keeps(self) -> bool:
        return self.mode != "off"


class Run(Record):
    """One training of one adapter from feedback. `entries` are the stream entries that it uses.

    `events` counts them by what became of them; `evidence` is all that the gate saw, `curve` the loss by step.
    `adapter_created` tells the adapter that it began with from a later one of the same name.
    """

    id: str
    tenant: str
    adapter: str
    trigger: Trigger
    state: State
    reason: str = ""
    created: float
    changed: float
    ended: float | None = None
    attempts: int = 0
    adapter_created: float | None = None
    parent: int | None = None
    parent_digest: str | None = None
    candidate: str | None = None
    version: int | None = None
    entries: tuple[str, ...] = ()
    events: dict[str, int] = {}
    dataset: dict[str, Any] = {}
    config: dict[str, Any] = {}
    libraries: dict[str, str] = {}
    step: int = 0
    steps: int = 0
    curve: tuple[tuple[int, float], ...] = ()
    metrics: dict[str, Any] = {}
    passed: bool | None = None
    evidence: tuple[dict[str, Any], ...] = ()
    canary_since: float | None = None
    history: tuple[tuple[float, str], ...] = ()

    @property
    def is_over(self) -> bool:
        return self.state in ENDED
