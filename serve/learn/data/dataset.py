"""A run's data: what it trains on, what it is held against, and why anything was left out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from polyad.serve.learn.data.curators import Scorer, curate
from polyad.serve.learn.data.defences import agreeing, capped, deduplicated, without_slogans
from polyad.serve.learn.data.events import Converted
from polyad.serve.learn.data.example import Decision, Example, digest_of
from polyad.serve.learn.data.masking import masked
from polyad.serve.learn.data.memory import Memory
from polyad.serve.learn.settings import DataSettings

_MIN_KTO = 2


@dataclass(frozen=True)
class Dataset:
    """`train` are the new examples, `replay` the earlier ones that join them, `held_out` all that none may train on.

    The digest covers everything that the training sees, in its order.
    """

    train: tuple[Example, ...]
    replay: tuple[Example, ...]
    held_out: tuple[Example, ...]
    decisions: tuple[Decision, ...]

    @property
    def digest(self) -> str:
        return digest_of([example.content for example in (*self.train, *self.replay)])

    @property
    def counts(self) -> dict[str, Any]:
        kinds = Counter(example.kind for example in self.train)
        sizes = {"replay": len(self.replay), "held_out": len(self.held_out), "dropped": len(self.dropped)}
        return {"digest": self.digest, "sft": kinds["sft"], "dpo": kinds["dpo"], "kto": kinds["kto"], **sizes}

    @property
    def dropped(self) -> list[Decision]:
        return [decision for decision in self.decisions if not decision.kept]


def build(converted: Converted, memory: Memory, settings: DataSettings, scorer: Scorer | None = None) -> Dataset:
    """The same events, memory and settings give the same dataset, byte for byte. Curators need a scorer."""
    decisions = list(converted.decisions)
    examples = [masked(example, settings.mask) for example in converted.examples]
    for rule in (agreeing, without_slogans, deduplicated, capped):
        examples, left_out = rule(examples, settings)
        decisions += left_out
    train, held_out = _split(examples, settings.held_out)
    train, left_out = curate(train, settings.curators, scorer)
    decisions += left_out
    kept_groups = {example.group for example in (*held_out, *memory.held_out)}
    replay = [one for one in memory.replay if one.group not in kept_groups and one.id not in {new.id for new in train}]
    replay = replay[: round(len(train) * settings.replay_ratio)]
    train, replay = _without_lonely_kto(train, replay, decisions)
    for part, by in ((train, "train"), (held_out, "held out")):
        decisions += [
            Decision(event=one.event, example=one.id, kind=one.kind, kept=True, by=by, reason="") for one in part
        ]
    held = {example.id: example for example in (*memory.held_out, *held_out)}
    return Dataset(tuple(train), tuple(replay), tuple(held.values()), tuple(decisions))


def is_held_out(example: Example, share: float) -> bool:
    """By its prompt alone, so that an answer to a held-out prompt is never trained on, in this run or a later one."""
    return int(digest_of(["held out", example.group])[:8], 16) < share * 2**32


def _split(examples: Sequence[Example], share: float) -> tuple[list[Example], list[Example]]:
    parts: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        parts[is_held_out(example, share)].append(example)
    return parts


def _without_lonely_kto(
    train: list[Example], replay: list[Example], decisions: list[Decision]
) -> tuple[list[Example], list[Example]]:
    """KTO measures its drift on other examples' answers: a single one cannot be trained on."""
    lonely = [example for example in (*train, *replay) if example.kind == "kto"]
    if len(lonely) >= _MIN_KTO or not lonely:
        return train, replay
    reason = "a thumb needs another one beside it"
    decisions += [
        Decision(event=one.event, example=one.id, kind="kto", kept=False, by="pairs", reason=reason) for one in lonely
    ]
    return [one for one in train if one.kind != "kto"], [one for one in replay if one.kind != "kto"]
