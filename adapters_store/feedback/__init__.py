"""Feedback on responses, the policies that say how adapters learn from it, and the runs that do."""

from polyad.adapters_store.feedback.policies import Policies
from polyad.adapters_store.feedback.records import (
    Answer,
    Feedback,
    Interaction,
    Message,
    Policy,
    Queued,
    Run,
    Score,
    Trigger,
)
from polyad.adapters_store.feedback.runs import Ending, Fenced, Lease, Runs
from polyad.adapters_store.feedback.schedule import next_time
from polyad.adapters_store.feedback.store import FeedbackStore

__all__ = [
    "FeedbackStore",
    "Policies",
    "Policy",
    "Runs",
    "Run",
    "Ending",
    "Lease",
    "Fenced",
    "Interaction",
    "Message",
    "Answer",
    "Feedback",
    "Queued",
    "Score",
    "Trigger",
    "next_time",
]
