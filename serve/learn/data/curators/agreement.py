"""Whether two answers say the same, without another model: by their words."""

import re
from collections import Counter

_WORD = re.compile(r"\w+", re.UNICODE)


def normal(text: str) -> str:
    """The words of a text, in lower case: equal for answers that differ in form alone."""
    return " ".join(_WORD.findall(text.lower()))


def overlap(first: str, second: str) -> float:
    """F1 of the words of both, 0 to 1."""
    one, two = Counter(normal(first).split()), Counter(normal(second).split())
    common = sum((one & two).values())
    return 0.0 if not common else 2 * common / (one.total() + two.total())
