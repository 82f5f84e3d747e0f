"""Numbers as compositions write them: an optional minus, decimal digits, a fraction, an exponent."""

_DIGITS = frozenset("0123456789")


def number_end(text: str, start: int) -> int:
    """Where the number that begins at `start` ends; `start` itself if none does."""
    digits = start + 1 if text.startswith("-", start) else start
    end = _digits_end(text, digits)
    if text.startswith(".", end):
        fraction = _digits_end(text, end + 1)
        end = fraction if fraction > end + 1 else end
    return _exponent_end(text, end) if end > digits else start


def number_text(number: float) -> str:
    """The shortest text that reads back as the same number."""
    return str(int(number)) if number == int(number) and abs(number) < 2**63 else repr(number)


def _digits_end(text: str, start: int) -> int:
    end = start
    while end < len(text) and text[end] in _DIGITS:
        end += 1
    return end


def _exponent_end(text: str, start: int) -> int:
    if not text.startswith("e", start):
        return start
    digits = start + 2 if text.startswith(("+", "-"), start + 1) else start + 1
    end = _digits_end(text, digits)
    return end if end > digits else start
