"""URLs so plain that two readers cannot read them differently."""

import re
from dataclasses import dataclass

from polyad.adapters_store.errors import InvalidSource
from polyad.adapters_store.masking import masked

ALLOWED = (
    "scheme://host/path of letters, digits and -._~+=, without empty, '.' or '..' segments, "
    "user names, escapes, queries, wildcards or chained URLs"
)

_MAX_LENGTH = 1_000
_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[A-Za-z0-9._-]*(?::[0-9]{1,5})?)(?P<path>(?:/[^/]+)*)/?")
_SEGMENT = re.compile(r"[A-Za-z0-9._~+=,-]+", re.ASCII)


@dataclass(frozen=True)
class PlainUrl:
    scheme: str
    host: str
    segments: tuple[str, ...]

    @classmethod
    def parse(cls, field: str, text: str) -> "PlainUrl":
        """Raises InvalidSource for whatever is not plain. Nothing is decoded or normalised: what is odd is refused."""
        if len(text) > _MAX_LENGTH:
            raise InvalidSource(field, f"{len(text)} characters", f"at most {_MAX_LENGTH}: {ALLOWED}")
        refusal = InvalidSource(field, masked(text), ALLOWED)
        match = _URL.fullmatch(text)
        if match is None:
            raise refusal
        segments = tuple(match["path"].split("/")[1:])
        if not all(_SEGMENT.fullmatch(part) and part not in (".", "..") for part in segments):
            raise refusal
        if match["host"] in (".", "..") or not (match["host"] or segments):
            raise refusal
        return cls(match["scheme"], match["host"], segments)

    def is_under(self, prefix: "PlainUrl") -> bool:
        same_place = (self.scheme, self.host) == (prefix.scheme, prefix.host)
        return same_place and self.segments[: len(prefix.segments)] == prefix.segments

    @property
    def path(self) -> str:
        return "/" + "/".join(self.segments)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}" + "".join(f"/{segment}" for segment in self.segments)
