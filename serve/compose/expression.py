"""The language of the `model` field: `name`, `name@alias`, `name@version`, each also behind `base:`."""

from dataclasses import dataclass

from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.names import NAME_RULE, PRODUCTION, VERSION_RULE, check_name

MAX_LENGTH = 256
GRAMMAR = f"name, name@alias or name@version, where a name is {NAME_RULE} and a version is {VERSION_RULE}"


@dataclass(frozen=True, slots=True)
class Expression:
    """One adapter, at a version number, an alias or a digest."""

    adapter: str
    reference: str = PRODUCTION

    def __str__(self) -> str:
        return self.adapter if self.reference == PRODUCTION else f"{self.adapter}@{self.reference}"


def parse(text: str) -> Expression:
    """Parse a composition. Raises InvalidInput for what no adapter could ever be called."""
    if len(text) > MAX_LENGTH:
        raise InvalidInput("model", text, f"at most {MAX_LENGTH} characters")
    adapter, at, reference = text.partition("@")
    check_name("model", adapter)
    if not at:
        return Expression(adapter)
    if not reference.isascii() or not reference.strip() or "@" in reference:
        raise InvalidInput("model", text, GRAMMAR)
    return Expression(adapter, reference)
