"""Leaves out answers that the parent finds too strange (noise), or knows by heart already."""

import math
from collections.abc import Sequence
from typing import ClassVar

from polyad.serve.learn.data.curators.curator import Choice, Options, Scorer
from polyad.serve.learn.data.example import Example


class Perplexity:
    name: ClassVar[str] = "perplexity"
    options: ClassVar[Options] = {"max": 1e4, "min": 0.0}

    def choose(self, examples: Sequence[Example], scorer: Scorer, options: Options) -> list[Choice]:
        choices = []
        for example in examples:
            total, tokens = scorer.log_prob(example.prompt, example.answer)
            perplexity = math.exp(min(700.0, -total / max(1, tokens)))
            kept = float(options["min"]) <= perplexity <= float(options["max"])
            choices.append(Choice(example, example if kept else None, f"perplexity {perplexity:.4g}"))
        return choices
