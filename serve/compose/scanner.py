"""The text of a composition, read from left to right, and the errors that say where it went wrong."""

from collections.abc import Callable

from polyad.adapters_store.errors import InvalidInput, InvalidName
from polyad.adapters_store.names import MODEL_RULE, NAME_RULE, VERSION_RULE, is_model_name, is_name, is_reference
from polyad.serve.compose.bounds import MAX_WEIGHT, WEIGHT_RULE
from polyad.serve.compose.number import number_end
from polyad.serve.compose.options import VALUE_RULE, Value, read_value

_SPACE = frozenset(" \t\r\n")
_DELIMITERS = _SPACE | frozenset("+*(),;=@")
_SHOWN = 24


class Scanner:
    """A position in a text. A word goes on to the next space or delimiter, so `a-b` is one name and `a -b` is not."""

    def __init__(self, text: str, position: int, field: str) -> None:
        self.position = position
        self._text = text
        self._field = field

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while (character := self._text[self.position : self.position + 1]) in _SPACE:
            self.position += 1
        return character

    def take(self, character: str) -> bool:
        """Whether the character comes next; it is then behind the position."""
        if self.peek() != character:
            return False
        self.position += 1
        return True

    def name(self, allowed: str) -> str:
        """The name that comes next. Raises InvalidInput if none can, InvalidName if it breaks the rule for names."""
        return self._checked(allowed, is_name, NAME_RULE)

    def model_name(self, allowed: str) -> str:
        """The name of an adapter or a composition, or of a method. Raises as `name`."""
        return self._checked(allowed, is_model_name, MODEL_RULE)

    def version(self) -> str | None:
        """What stands behind an @ that comes next, without spaces; None if none does. Raises InvalidName."""
        if not self._text.startswith("@", self.position):
            return None
        self.position += 1
        start, word = self.position, self._word()
        if not is_reference(word):
            raise InvalidName(self._field, word, VERSION_RULE, self._place(start))
        return word

    def weight(self) -> float:
        """The number behind a *. Raises InvalidInput."""
        self.peek()
        start, end = self.position, number_end(self._text, self.position)
        following = self._text[end : end + 1]
        if end == start or not (following == "-" or following in _DELIMITERS or not following):
            raise self.refused(f"{WEIGHT_RULE}; a weight stands behind its *, as in support*0.7")
        self.position = end
        weight = float(self._text[start:end])
        if not abs(weight) <= MAX_WEIGHT:
            raise self.refused(WEIGHT_RULE, start)
        return weight

    def value(self) -> Value:
        """The value of an option. Raises InvalidInput."""
        self.peek()
        start = self.position
        self.position = max(number_end(self._text, start), self._word_end())
        value = read_value(self._text[start : self.position])
        if value is None:
            raise self.refused(VALUE_RULE, start)
        return value

    def refused(self, allowed: str, start: int | None = None) -> InvalidInput:
        """The error for what comes next, or came at `start`."""
        self.peek()
        start = self.position = self.position if start is None else start
        came = self._text[start : max(self._word_end(), start + 1)]
        return InvalidInput(self._field, came, allowed, self._place(start))

    def _checked(self, allowed: str, valid: Callable[[str], bool], rule: str) -> str:
        start = self._word_start(allowed)
        word = self._word()
        if not valid(word):
            raise InvalidName(self._field, word, rule, self._place(start))
        return word

    def _word_start(self, allowed: str) -> int:
        if self.peek() in ("", "-") or self.peek() in _DELIMITERS:
            raise self.refused(allowed)
        return self.position

    def _word(self) -> str:
        start, self.position = self.position, self._word_end()
        return self._text[start : self.position]

    def _word_end(self) -> int:
        end = self.position
        while end < len(self._text) and self._text[end] not in _DELIMITERS:
            end += 1
        return end

    def _place(self, start: int) -> str:
        first, last = max(0, start - _SHOWN), start + _SHOWN
        before, after = "…" if first else "", "…" if last < len(self._text) else ""
        around = before + self._text[first:last] + after
        where = f"character {start + 1}" if start < len(self._text) else "the end"
        return f"at {where} of {around!r}"
