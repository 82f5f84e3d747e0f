"""Names that clients give to images and the like (`uuid` in a part of a message's content).

vLLM keeps what it computed of them under this name, for all tenants: a name would bring what another tenant showed, or
put one's own in its place. Without names it goes by the bytes.
"""

from collections.abc import Iterator

from polyad.adapters_store.errors import Unsupported

_LISTS = ("messages", "input")


def check_no_media_names(body: object) -> None:
    """Raise Unsupported for a name."""
    if not isinstance(body, dict):
        return
    for key in _LISTS:
        for field, part in _parts(key, body.get(key)):
            if part.get("uuid") is not None:
                raise Unsupported(f"{field}.uuid", part["uuid"], "none: images are known by their bytes")


def _parts(field: str, value: object) -> Iterator[tuple[str, dict[str, object]]]:
    """The parts of messages' contents, in lists of messages and of conversations."""
    for place, message in enumerate(value) if isinstance(value, list) else ():
        if isinstance(message, list):
            yield from _parts(f"{field}.{place}", message)
        content = message.get("content") if isinstance(message, dict) else None
        for number, part in enumerate(content) if isinstance(content, list) else ():
            if isinstance(part, dict):
                yield f"{field}.{place}.content.{number}", part
