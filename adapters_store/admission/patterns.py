"""Regular expressions from outside, matched exactly as Python's `re` does but with a limit that holds."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from polyad.adapters_store.admission.pattern_process import CPU_SECONDS
from polyad.adapters_store.errors import InvalidAdapter, PolyadError, TooLarge

_MAX_PAIRS = 500_000
# Only for a process that sleeps or a machine that stalls: the limit on CPU time comes first.
_WALL_SECONDS = 60


@dataclass(frozen=True)
class Pattern:
    """`field` is where the expression came from; `mode` is the function of `re` that matches it."""

    field: str
    mode: Literal["match", "fullmatch"]
    expression: str


def match_patterns(patterns: Sequence[Pattern], texts: Sequence[str]) -> list[Mapping[str, str | None]]:
    """For each pattern the texts that match, with what its group `idx` holds.

    Raises InvalidAdapter for an expression that is invalid or takes too long, TooLarge for too many of them.
    """
    if not patterns or not texts:
        return [{} for _ in patterns]
    if len(patterns) * len(texts) > _MAX_PAIRS:
        raise TooLarge(patterns[0].field, len(patterns), f"at most {_MAX_PAIRS // len(texts)} patterns")
    request = {"texts": list(texts), "patterns": [[pattern.mode, pattern.expression] for pattern in patterns]}
    answer = _ask(patterns, json.dumps(request).encode())
    if "error" in answer:
        index, reason = answer["error"]
        raise InvalidAdapter(patterns[index].field, patterns[index].expression, f"a regular expression ({reason})")
    return [{texts[index]: group for index, group in found} for found in answer["matches"]]


def _ask(patterns: Sequence[Pattern], request: bytes) -> Any:
    script = Path(__file__).with_name("pattern_process.py")
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(script)], input=request, capture_output=True, timeout=_WALL_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise _too_slow(patterns) from error
    if done.returncode < 0:
        raise _too_slow(patterns)
    if done.returncode > 0:
        raise PolyadError(f"matching regular expressions failed: {done.stderr.decode(errors='replace')[-500:]}")
    return json.loads(done.stdout)


def _too_slow(patterns: Sequence[Pattern]) -> InvalidAdapter:
    expressions = [pattern.expression for pattern in patterns]
    return InvalidAdapter(patterns[0].field, expressions, f"regular expressions that match within {CPU_SECONDS} s")
