"""Half fine-tuning (arXiv 2404.18466): a part of each block's modules stays as in the parent, other ones in each round.

Of q, k, v and o two are trained; of the three of the feed-forward part one and two in turn. For other shares than one
half, so many of each as come closest.
"""

import random
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

from polyad.serve.learn.train.options.option import Option, Training, Values

_PLACE = re.compile(r"(?P<block>.*\.\d+)\.(?P<path>.*)\.lora_[AB]\.", re.ASCII)


@dataclass
class Hft(Option):
    defaults: ClassVar[Values] = {"share": 0.5}

    def begin(self, training: Training) -> None:
        trained = chosen(list(training.parameters), float(self.values["share"]), training.seed, training.round)
        for name in list(training.parameters):
            if name not in trained:
                training.parameters.pop(name).requires_grad_(False)


def chosen(names: list[str], share: float, seed: int, round: int) -> set[str]:
    """The parameters that are trained: both factors of a module, or neither."""
    groups: defaultdict[tuple[str, str], defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    kept = set()
    for name in names:
        match = _PLACE.search(name)
        if match is None:
            kept.add(name)  # outside of the blocks everything is trained, as in the paper
            continue
        category = match["path"].rpartition(".")[0]
        groups[category, match["block"]][match["path"]].append(name)
    chance = random.Random(f"hft {seed} {round}")
    owed: defaultdict[str, float] = defaultdict(float)
    for category, block in sorted(groups, key=lambda key: (key[0], _number(key[1]))):
        modules = groups[category, block]
        owed[category] += share * len(modules)
        count = min(len(modules), max(0, round_half_up(owed[category])))
        owed[category] -= count
        for module in chance.sample(sorted(modules), count):
            kept |= set(modules[module])
    return kept


def round_half_up(value: float) -> int:
    return int(value + 0.5)


def _number(block: str) -> int:
    return int(block.rpartition(".")[2])
