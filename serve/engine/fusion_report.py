"""What a client is told of a fusion: for each token how it came about, and a summary for each choice."""

import math
from collections import Counter
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from polyad.kernels.fusion.fuser import CHOSEN, KL_FROM_BASE, KL_TO_BASE, MEASURES, TARGET_FROM, TARGET_TO
from polyad.kernels.fusion.method import Search
from polyad.serve.compose import FusedStreams

BASE = "base"


@dataclass
class _Choice:
    unsent: list[dict[str, Any]] = field(default_factory=list)
    tokens: int = 0
    saturated: int = 0
    weights: Counter[str] = field(default_factory=Counter)
    chosen: Counter[str] = field(default_factory=Counter)


@dataclass
class FusionReport:
    """One HTTP request's. `wanted` says whether the client asked for it, `beams` whether it asked for beam search."""

    wanted: bool = False
    beams: bool = False
    fused: FusedStreams | None = None
    _choices: dict[int, _Choice] = field(default_factory=dict)
    _prompts: int = 0

    @property
    def sequences(self) -> int:
        """How many sequences each choice was computed as; 0 if nothing was fused."""
        return len(self.fused.streams) if self.fused is not None else 0

    def begin(self, fused: FusedStreams, choices: int) -> int:
        """A prompt with so many choices is generated for; the index of the first of them."""
        self.fused = fused
        self._prompts += choices
        return self._prompts - choices

    def add(self, index: int, records: Sequence[Sequence[float]]) -> None:
        """What became of the next tokens of a choice."""
        choice = self._choices.setdefault(index, _Choice())
        for record in records:
            token = self._token(record)
            choice.unsent.append(token)
            choice.tokens += 1
            choice.saturated += saturated(self.fused, record)
            choice.weights.update(token["weights"])
            if token["expert"] is not None:
                choice.chosen[token["expert"]] += 1

    def take(self, index: int) -> list[dict[str, Any]]:
        """What was not taken before, one entry a token."""
        choice = self._choices.setdefault(index, _Choice())
        taken, choice.unsent = choice.unsent, []
        return taken

    def summary(self, index: int) -> dict[str, Any]:
        """A choice as a whole: mean weights, how often each expert was chosen, how often at the range's end."""
        choice = self._choices.setdefault(index, _Choice())
        mean = {name: round(total / max(1, choice.tokens), 6) for name, total in choice.weights.items()}
        return {
            "tokens": choice.tokens,
            "mean_weights": mean,
            "chosen": dict(choice.chosen),
            "saturated": choice.saturated,
        }

    def _token(self, record: Sequence[float]) -> dict[str, Any]:
        labels = self._labels()
        chosen = int(record[CHOSEN])
        measures = {
            "kl_from_base": record[KL_FROM_BASE],
            "kl_to_base": record[KL_TO_BASE],
            "target_from_base": record[TARGET_FROM],
            "target_to_base": record[TARGET_TO],
        }
        return {
            "weights": dict(zip(labels, (round(weight, 6) for weight in record[len(MEASURES) :]), strict=True)),
            "expert": labels[chosen] if chosen else None,
            **{name: None if math.isnan(value) else round(value, 6) for name, value in measures.items()},
        }

    def _labels(self) -> list[str]:
        """A name for each stream; equal streams are told apart by a number."""
        streams = self.fused.streams if self.fused is not None else ()
        names = [stream.label if stream.terms else BASE for stream in streams]
        return [
            f"{name}#{names[:place].count(name) + 1}" if name in names[:place] else name
            for place, name in enumerate(names)
        ]


def saturated(fused: FusedStreams | None, record: Sequence[float]) -> bool:
    """Whether a search ended at the high end of its range, and might have gone further."""
    if fused is None or not isinstance(fused.method, Search):
        return False
    method = fused.method
    high = method.low + method.step * (method.count - 1)
    return max(record[len(MEASURES) + 1 :]) > high - method.step / 2


current_report: ContextVar[FusionReport | None] = ContextVar("current_report", default=None)
