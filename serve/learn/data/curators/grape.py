"""GRAPE (arXiv 2502.04194): of several good answers to one prompt, the one that the parent finds most likely.

`norm: mean` divides by the number of tokens; the summed log-probability (`sum`) favours short answers.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import ClassVar

from polyad.serve.learn.data.curators.curator import Choice, Options, Scorer
from polyad.serve.learn.data.example import Example


class Grape:
    name: ClassVar[str] = "grape"
    options: ClassVar[Options] = {"norm": "mean"}

    def choose(self, examples: Sequence[Example], scorer: Scorer, options: Options) -> list[Choice]:
        groups: defaultdict[str, list[int]] = defaultdict(list)
        for index, example in enumerate(examples):
            if example.kind == "sft":
                groups[example.group].append(index)
        choices = [Choice(example, example, "not one of several") for example in examples]
        for indices in groups.values():
            if len(indices) > 1:
                scores = {index: _score(examples[index], scorer, options["norm"] == "mean") for index in indices}
                best = max(indices, key=lambda index: scores[index])
                for index in indices:
                    reason = f"score {scores[index]:.4g}, the best {scores[best]:.4g}"
                    choices[index] = Choice(examples[index], examples[index] if index == best else None, reason)
        return choices


def _score(example: Example, scorer: Scorer, mean: bool) -> float:
    total, tokens = scorer.log_prob(example.prompt, example.answer)
    return total / max(1, tokens) if mean else total
