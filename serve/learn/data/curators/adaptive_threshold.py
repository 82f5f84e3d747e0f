"""Leaves out answers whose mean log-probability is below the mean of all by more than `deviations` of them."""

from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import ClassVar

from polyad.serve.learn.data.curators.curator import Choice, Options, Scorer
from polyad.serve.learn.data.example import Example


class AdaptiveThreshold:
    name: ClassVar[str] = "adaptive_threshold"
    options: ClassVar[Options] = {"deviations": 2.0}

    def choose(self, examples: Sequence[Example], scorer: Scorer, options: Options) -> list[Choice]:
        scores = []
        for example in examples:
            total, tokens = scorer.log_prob(example.prompt, example.answer)
            scores.append(total / max(1, tokens))
        if not scores:
            return []
        threshold = fmean(scores) - float(options["deviations"]) * pstdev(scores)
        return [
            Choice(example, example if score >= threshold else None, f"score {score:.4g}, threshold {threshold:.4g}")
            for example, score in zip(examples, scores, strict=True)
        ]
