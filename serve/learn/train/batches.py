"""Which examples make which step: the same for the same seed, on every machine, however often it is asked."""

import random
from collections import defaultdict
from collections.abc import Sequence

from polyad.serve.learn.data import Example

Batch = tuple[int, ...]


def batches(examples: Sequence[Example], size: int, epochs: int, seed: int) -> list[Batch]:
    """Indices of the examples of each step. A batch is of one kind; every epoch has every example once."""
    pools: defaultdict[str, list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        pools[example.kind].append(index)
    steps: list[Batch] = []
    for epoch in range(epochs):
        chance = random.Random(f"{seed} {epoch}")
        made = [batch for kind in sorted(pools) for batch in _cut(_shuffled(pools[kind], chance), size)]
        chance.shuffle(made)
        steps += made
    return steps


def mismatches(examples: Sequence[Example]) -> dict[int, int]:
    """For each KTO example another one, whose answer is held against its prompt: one with another prompt, if any."""
    indices = [index for index, example in enumerate(examples) if example.kind == "kto"]
    found = {}
    for place, index in enumerate(indices):
        rest = indices[place + 1 :] + indices[:place]
        other = next((one for one in rest if examples[one].group != examples[index].group), None)
        found[index] = other if other is not None else rest[0]
    return found


def _shuffled(pool: Sequence[int], chance: random.Random) -> list[int]:
    shuffled = list(pool)
    chance.shuffle(shuffled)
    return shuffled


def _cut(indices: list[int], size: int) -> list[Batch]:
    cut = [tuple(indices[start : start + size]) for start in range(0, len(indices), size)]
    # A rest of one would be too small for KTO's baseline.
    if len(cut) > 1 and len(cut[-1]) == 1:
        cut[-2:] = [cut[-2] + cut[-1]]
    return cut
