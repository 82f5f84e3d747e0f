"""What a request may ask of structured output.

A grammar is compiled inside the engine's process. The guidance backend, polyad's default, bounds its own work: of the
backends of vLLM 0.32 it alone refuses small schemas that cost the others minutes and gigabytes. What is left is size.
"""

import json
from typing import Any

from polyad.adapters_store.errors import InvalidInput

BACKEND = "guidance"
MAX_CHARACTERS = 64 * 1024

_FIELDS = ("json", "regex", "choice", "grammar", "structural_tag", "whitespace_pattern")


def check_structured(sampling_params: Any) -> None:
    """Raise InvalidInput for a grammar that is larger than MAX_CHARACTERS or nested beyond what JSON can be read."""
    structured = getattr(sampling_params, "structured_outputs", None)
    if structured is None:
        return
    for field in _FIELDS:
        size = _size(field, getattr(structured, field, None))
        if size > MAX_CHARACTERS:
            raise InvalidInput(f"structured_outputs.{field}", f"{size} characters", f"at most {MAX_CHARACTERS}")


def _size(field: str, value: Any) -> int:
    if value is None or isinstance(value, str):
        return len(value or "")
    try:
        return len(json.dumps(value))
    except RecursionError as error:
        raise InvalidInput(f"structured_outputs.{field}", "deeply nested JSON", "a flatter schema") from error
