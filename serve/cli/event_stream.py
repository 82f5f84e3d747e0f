"""Server-sent events, as OpenAI's API streams its answers."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from polyad.serve.cli.failure import Failure

_FIELD = b"data:"
_END = b"[DONE]"


def events(chunks: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON of each event up to the end mark. Raises Failure if the stream ends without it."""
    for line in _lines(chunks):
        if not line.startswith(_FIELD):
            continue
        data = line.removeprefix(_FIELD).strip()
        if data == _END:
            return
        yield json.loads(data)
    raise Failure("the answer broke off: the server ended the stream early")


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    # Not httpx's iter_lines: it also splits at characters such as U+2028, which JSON may hold unescaped.
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    if rest:
        yield rest
