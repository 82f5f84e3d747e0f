"""Text from elsewhere, before a terminal sees it: it must not steer the terminal."""

_CONTROLS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def one_line(text: str) -> str:
    """The text in one line, with a ? for everything that cannot be seen."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))


def without_controls(text: str) -> str:
    """The text without control characters, but for line ends and tabs."""
    return text.translate(_CONTROLS)
