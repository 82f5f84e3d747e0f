"""Masked Thought (arXiv 2403.02178): some tokens of taught answers are hidden in the input; what is to be said stays.

A token is hidden with the probability `share`, which grows to that over the first `warmup` of all steps.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from polyad.serve.learn.train.options.option import Option, Training, Values
from polyad.serve.learn.train.tokens import Row


@dataclass
class MaskedThought(Option):
    defaults: ClassVar[Values] = {"share": 0.2, "warmup": 0.5, "token": -1}

    def rows(self, training: Training, rows: Sequence[Row], step: int) -> Sequence[Row]:
        grown = min(1.0, (step + 1) / max(1.0, float(self.values["warmup"]) * training.steps))
        token = int(self.values["token"])
        hidden = training.padding if token < 0 else token
        chance = random.Random(f"masked thought {training.seed} {step}")
        return [hide(row, float(self.values["share"]) * grown, hidden, chance) for row in rows]


def hide(row: Row, share: float, token: int, chance: random.Random) -> Row:
    """The row with each token of its answer hidden in the input by chance."""
    return row.hiding(tuple(token if chance.random() < share else one for one in row.answer))
