"""What later runs need of earlier ones: examples against forgetting, and held-out ones that none may train on."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from polyad.serve.learn.data.example import Example, digest_of
from polyad.serve.learn.settings import LearnSettings


@dataclass(frozen=True)
class Memory:
    replay: tuple[Example, ...] = ()
    held_out: tuple[Example, ...] = ()

    @classmethod
    def read(cls, stored: Mapping[str, str], now: float) -> "Memory":
        """From what Redis holds, without what has expired."""
        parts: dict[bool, list[Example]] = {False: [], True: []}
        for text in stored.values():
            value = json.loads(text)
            example = Example.model_validate(value)
            if example.expires > now:
                parts[bool(value["held_out"])].append(example)
        ordered = {part: tuple(sorted(found, key=_order)) for part, found in parts.items()}
        return cls(ordered[False], ordered[True])

    def grown(self, train: Iterable[Example], held_out: Iterable[Example], settings: LearnSettings) -> "Memory":
        """With a run's examples. Which ones stay is a uniform draw from all so far, the same on every machine."""
        replay = {example.id: example for example in (*self.replay, *train)}
        held = {example.id: example for example in (*self.held_out, *held_out)}
        return Memory(
            tuple(sorted(replay.values(), key=_order)[: settings.data.replay]),
            tuple(sorted(held.values(), key=_order)[: settings.gate.max_held_out]),
        )

    def written(self) -> dict[str, str]:
        """As Redis holds it."""
        return {
            example.id: json.dumps({**example.model_dump(mode="json"), "held_out": held})
            for part, held in ((self.replay, False), (self.held_out, True))
            for example in part
        }


def _order(example: Example) -> str:
    # The smallest of random numbers that belong to the examples are a reservoir that needs no counter.
    return digest_of(["reservoir", example.id])
