"""S3FT (arXiv 2502.08130): where the parent answers right in its own words, these are trained on; if not, its own
paraphrase of the taught answer, if that is right; if not, the taught answer.

Two answers are the same by their words, or with `judge: contains` where the taught one is within the parent's.
"""

from collections.abc import Sequence
from typing import ClassVar

from polyad.adapters_store.feedback import Message
from polyad.serve.learn.data.curators.agreement import normal
from polyad.serve.learn.data.curators.curator import Choice, Options, Scorer
from polyad.serve.learn.data.example import Example, Prompt


class S3ft:
    name: ClassVar[str] = "s3ft"
    options: ClassVar[Options] = {"judge": "same"}

    def choose(self, examples: Sequence[Example], scorer: Scorer, options: Options) -> list[Choice]:
        return [self._choice(example, scorer, str(options["judge"])) for example in examples]

    def _choice(self, example: Example, scorer: Scorer, judge: str) -> Choice:
        if example.kind != "sft":
            return Choice(example, example, "only taught answers are replaced")
        for route, prompt in (("own answer", example.prompt), ("own paraphrase", _paraphrase(example))):
            (said,) = scorer.answers(prompt, 1, 0.0)
            if said and _same(said, example.answer, judge):
                return Choice(example, example.model_copy(update={"answer": said}), route)
        return Choice(example, example, "taught answer")


def _paraphrase(example: Example) -> Prompt:
    asked = f"Rewrite this answer in your own words and keep its meaning.\n\n{example.answer}"
    return (Message(role="user", content=asked),)


def _same(said: str, gold: str, judge: str) -> bool:
    if judge == "contains":
        return f" {normal(gold)} " in f" {normal(said)} "
    return normal(said) == normal(gold)
