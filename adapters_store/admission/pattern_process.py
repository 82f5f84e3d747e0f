"""Matches regular expressions in a process of its own; run as a script, it imports nothing of polyad.

Python's `re` can take exponential time and cannot be interrupted inside a process; a process can be killed.
In: {"texts": [...], "patterns": [[mode, expression], ...]}. Out: {"matches": [[[text index, idx or null], ...], ...]}
with one list per pattern, or {"error": [pattern index, reason]}.
"""

import json
import re
import resource
import sys
from typing import TypedDict

CPU_SECONDS = 2
MEMORY_BYTES = 512 * 2**20


class Request(TypedDict):
    texts: list[str]
    patterns: list[tuple[str, str]]


def matches(mode: str, expression: str, texts: list[str]) -> list[tuple[int, str | None]]:
    compiled = re.compile(expression)
    match = compiled.fullmatch if mode == "fullmatch" else compiled.match
    found = ((index, match(text)) for index, text in enumerate(texts))
    return [(index, hit.groupdict().get("idx")) for index, hit in found if hit]


def answer(request: Request) -> dict[str, object]:
    result = []
    for index, (mode, expression) in enumerate(request["patterns"]):
        try:
            result.append(matches(mode, expression, request["texts"]))
        except (re.error, RecursionError, OverflowError, MemoryError) as error:
            return {"error": [index, f"{type(error).__name__}: {error}"]}
    return {"matches": result}


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    json.dump(answer(json.load(sys.stdin)), sys.stdout)
