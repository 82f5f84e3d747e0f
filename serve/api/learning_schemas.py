"""The JSON bodies of feedback, policies and runs."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from polyad.adapters_store.feedback import Feedback, Interaction, Policy, Run, Score
from polyad.adapters_store.feedback.records import MAX_ANSWERS, MAX_COMMENT, MAX_LABELS, MAX_TEXT
from polyad.adapters_store.feedback.schedule import Schedule
from polyad.serve.api.schemas import Body, Name

_RESPONSE = "chatcmpl-9f86d081884c7d65"
_RUN = "run-0f3a0f3a0f3a0f3a"

_POLICY: dict[str, Any] = {
    "mode": "automatic",
    "keep_s": 604_800,
    "min_events": 50,
    "max_age_s": 86_400.0,
    "schedule": "30 2 * * *",
    "retry_s": 600.0,
    "canary_share": 0.1,
    "canary_events": 20,
    "canary_user_cap": 5,
    "canary_s": 3600.0,
    "settings": {"train": {"learning_rate": 0.0002}},
}


class GiveFeedback(Body):
    """A verdict on one response; at least one of thumb, score, correction, preferred, comment, labels.

    The same `id` again is the same feedback. `answer` is the index of the choice that it is on, `preferred` that of the
    choice that is better than the response's others. `user` is the end user who gives it.
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"example": {"response": _RESPONSE, "thumb": "down", "correction": "It comes tomorrow."}},
    )

    response: Annotated[str, Field(min_length=1, max_length=256)]
    id: Annotated[str | None, Field(min_length=1, max_length=128)] = None
    thumb: Literal["up", "down"] | None = None
    score: Annotated[int | None, Field(ge=1, le=5)] = None
    correction: Annotated[str | None, Field(min_length=1, max_length=MAX_TEXT)] = None
    preferred: Annotated[int | None, Field(ge=0, lt=MAX_ANSWERS)] = None
    comment: Annotated[str | None, Field(max_length=MAX_COMMENT)] = None
    labels: list[Annotated[str, Field(max_length=64)]] = Field(default_factory=list, max_length=MAX_LABELS)
    answer: Annotated[int, Field(ge=0, lt=MAX_ANSWERS)] = 0
    user: Annotated[str | None, Field(min_length=1, max_length=256)] = None


class FeedbackOut(BaseModel):
    """Feedback that was taken, and the version that it is on."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "object": "feedback",
                "id": "5e884898da280471",
                "response": _RESPONSE,
                "adapter": "support",
                "version": "v2",
            }
        }
    )

    object: Literal["feedback"] = "feedback"
    id: str
    response: str
    adapter: str
    version: str

    @classmethod
    def of(cls, feedback: Feedback, interaction: Interaction) -> "FeedbackOut":
        return cls(
            id=feedback.id,
            response=feedback.response,
            adapter=interaction.adapter,
            version=f"v{interaction.version}",
        )


class Forgotten(BaseModel):
    """How much was deleted of an end user."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"object": "forgotten", "user": "ann", "interactions": 3, "events": 1, "examples": 0}
        }
    )

    object: Literal["forgotten"] = "forgotten"
    user: str
    interactions: int
    events: int
    examples: int


class SetPolicy(Body):
    """How an adapter learns: `automatic`, `ask` (a person approves what passed the gate) or `off`.

    What is not given is what it is by default, not what it was.
    """

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"example": _POLICY})

    mode: Literal["automatic", "ask", "off"]
    keep_s: Annotated[int, Field(ge=60, le=365 * 86_400, description="How long interactions are kept.")] = 604_800
    min_events: Annotated[int, Field(ge=1, le=100_000, description="So many events begin a run.")] = 50
    max_age_s: Annotated[float, Field(ge=1, le=1e9, description="An event of this age begins a run.")] = 86_400
    schedule: Annotated[Schedule | None, Field(description="Runs begin then alone; as cron has it, in UTC.")] = None
    retry_s: Annotated[float, Field(ge=0, le=1e9, description="Pause after a run that failed.")] = 600
    canary_share: Annotated[float, Field(ge=0, le=1, description="Of requests, for a new version; 0: none.")] = 0.1
    canary_events: Annotated[int, Field(ge=1, le=100_000, description="Verdicts that end the canary.")] = 20
    canary_user_cap: Annotated[int, Field(ge=1, le=100_000, description="Verdicts of one user that count.")] = 5
    canary_s: Annotated[float, Field(ge=0, le=1e9, description="Longest time of the canary.")] = 3600
    settings: dict[str, Any] = Field(default_factory=dict, description="Of data, training and gate.")


class PolicyOut(BaseModel):
    """The policy of an adapter, and what its queue holds: events, thumbs by version, dead letters with reasons."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "object": "policy",
                "adapter": "support",
                **_POLICY,
                "waiting": 12,
                "scores": {"v2": {"up": 10, "down": 2}},
                "dead": [],
            }
        }
    )

    object: Literal["policy"] = "policy"
    adapter: str
    mode: Literal["automatic", "ask", "off"]
    keep_s: int
    min_events: int
    max_age_s: float
    schedule: str | None
    retry_s: float
    canary_share: float
    canary_events: int
    canary_user_cap: int
    canary_s: float
    settings: dict[str, Any]
    waiting: int
    scores: dict[str, Score]
    dead: list[dict[str, str]]

    @classmethod
    def of(
        cls, adapter: str, policy: Policy, waiting: int, scores: dict[int, Score], dead: list[dict[str, str]]
    ) -> "PolicyOut":
        labelled = {f"v{version}": score for version, score in sorted(scores.items())}
        return cls(adapter=adapter, **policy.model_dump(), waiting=waiting, scores=labelled, dead=dead)


class BeginRun(Body):
    """A run on demand."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"example": {"adapter": "support"}})

    adapter: Name


class RunOut(BaseModel):
    """One training of one adapter. `parent` is the version that it goes on from, `version` what came of it."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "object": "run",
                "id": _RUN,
                "adapter": "support",
                "trigger": "demand",
                "state": "published",
                "reason": "better than v2 on held-out feedback",
                "created": 1767225600.0,
                "ended": 1767225900.0,
                "attempts": 1,
                "parent": "v2",
                "version": "v3",
                "events": {"used": 50},
                "dataset": {"digest": "0f3a" * 16, "sft": 20, "dpo": 10, "kto": 20, "replay": 40, "held_out": 12},
                "config": {},
                "libraries": {"torch": "2.13.0"},
                "step": 60,
                "steps": 60,
                "curve": [[1, 0.69], [60, 0.31]],
                "metrics": {},
                "passed": True,
                "evidence": [],
                "history": [[1767225600.0, "queued"]],
            }
        }
    )

    object: Literal["run"] = "run"
    id: str
    adapter: str
    trigger: str
    state: str
    reason: str
    created: float
    ended: float | None
    attempts: int
    parent: str | None
    version: str | None
    events: dict[str, int]
    dataset: dict[str, Any]
    config: dict[str, Any]
    libraries: dict[str, str]
    step: int
    steps: int
    curve: list[tuple[int, float]]
    metrics: dict[str, Any]
    passed: bool | None
    evidence: list[dict[str, Any]]
    history: list[tuple[float, str]]

    @classmethod
    def of(cls, run: Run) -> "RunOut":
        shown = run.model_dump(include=set(cls.model_fields) - {"object", "parent", "version"})
        return cls(**shown, parent=_label(run.parent), version=_label(run.version))


class RunPage(BaseModel):
    """A page of runs, newest first; `after` is the cursor for the next one, null at the end."""

    object: Literal["list"] = "list"
    data: list[RunOut]
    after: str | None

    model_config = ConfigDict(json_schema_extra={"example": {"object": "list", "data": [], "after": _RUN}})


class Decisions(BaseModel):
    """What became of each event and example, by ids alone, and why."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "object": "list",
                "data": [{"event": "5e884898da280471", "kind": "kto", "kept": False, "reason": "duplicate"}],
            }
        }
    )

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]


def _label(number: int | None) -> str | None:
    return None if number is None else f"v{number}"
