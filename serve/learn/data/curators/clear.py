"""CLEAR's filter (arXiv 2403.12776): keeps what the parent is confident of, by BSDetector's confidence.

C = beta O + (1 - beta) S. O: how consistent `samples` answers of the parent are with the answer, 0.8 similarity + 0.2
exact; similarity is the F1 of their words, where the paper asks an NLI model. S: what the parent says when it is asked
whether the answer is correct. The threshold is `confidence`, or the median of all where that is negative, as in the
paper: half of the data goes then, also of clean data. CLEAR's correction of what was left out is not part of it.
"""

from collections.abc import Sequence
from statistics import fmean, median
from typing import ClassVar

from polyad.adapters_store.feedback import Message
from polyad.serve.learn.data.curators.agreement import normal, overlap
from polyad.serve.learn.data.curators.curator import Choice, Options, Scorer
from polyad.serve.learn.data.example import Example, Prompt

_QUESTIONS = (
    "Is the proposed answer correct? (A) correct (B) incorrect (C) unsure. Reply with one letter.",
    "Are you sure that the proposed answer is right? (A) correct (B) incorrect (C) unsure. Reply with one letter.",
)
_WORTH = {"A": 1.0, "B": 0.0, "C": 0.5}


class Clear:
    name: ClassVar[str] = "clear"
    options: ClassVar[Options] = {"confidence": -1.0, "samples": 5, "beta": 0.7, "temperature": 1.0}

    def choose(self, examples: Sequence[Example], scorer: Scorer, options: Options) -> list[Choice]:
        scores = [confidence(example, scorer, options) for example in examples]
        if not scores:
            return []
        threshold = float(options["confidence"])
        threshold = median(scores) if threshold < 0 else threshold
        return [
            Choice(example, example if score >= threshold else None, f"confidence {score:.3f} of {threshold:.3f}")
            for example, score in zip(examples, scores, strict=True)
        ]


def confidence(example: Example, scorer: Scorer, options: Options) -> float:
    """BSDetector's, between 0 and 1."""
    samples = scorer.answers(example.prompt, int(options["samples"]), float(options["temperature"]))
    observed = fmean(
        0.8 * overlap(sample, example.answer) + 0.2 * (normal(sample) == normal(example.answer)) for sample in samples
    )
    reflected = fmean(_reflection(example, question, scorer) for question in _QUESTIONS)
    beta = float(options["beta"])
    return beta * observed + (1 - beta) * reflected


def _reflection(example: Example, question: str, scorer: Scorer) -> float:
    asked: Prompt = (
        Message(role="user", content=f"{_text(example.prompt)}\n\nAnswer: {example.answer}\n\n{question}"),
    )
    letters = {letter: scorer.log_prob(asked, letter)[0] for letter in _WORTH}
    return _WORTH[max(letters, key=lambda letter: letters[letter])]


def _text(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(turn.content for turn in prompt)
