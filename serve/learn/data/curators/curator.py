"""What a curator is: from examples, and what the parent version says of them, to the ones that are trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from polyad.serve.learn.data.example import Example, Prompt

Options = Mapping[str, float | int | str | bool]


class Scorer(Protocol):
    """The parent version, as curators may ask it."""

    def log_prob(self, prompt: Prompt, answer: str) -> tuple[float, int]:
        """The natural logarithm of the answer's probability, and how many tokens it has."""
        ...

    def answers(self, prompt: Prompt, count: int, temperature: float) -> list[str]:
        """What it says itself; with temperature 0 the same each time."""
        ...


@dataclass(frozen=True)
class Choice:
    """What became of one example: `example` is it, another in its place, or None where it is left out."""

    before: Example
    example: Example | None
    reason: str


class Curator(Protocol):
    """One way to choose. `options` holds the default of each of its options; others are refused."""

    name: ClassVar[str]
    options: ClassVar[Options]

    def choose(self, examples: Sequence[Example], scorer: Scorer, options: Options) -> list[Choice]:
        """A choice for each example, in their order."""
        ...
