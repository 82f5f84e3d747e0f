"""Which of several residents gives way where room is scarce: never one of a tenant that holds less than others."""

from collections import Counter
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def first_to_give_way(idle: Iterable[tuple[T, str]], held: Counter[str]) -> T | None:
    """Of those that may go, each with its tenant, the least recently used first: the first of who holds most.

    So a tenant that goes through a thousand adapters soon holds most, and from then on replaces its own.
    """
    found = max(idle, key=lambda entry: held[entry[1]], default=None)
    return None if found is None else found[0]
