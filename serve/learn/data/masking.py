"""Secrets and personal data, replaced before anything is learnt of them. Patterns with check digits are checked."""

import re
from collections.abc import Callable, Iterable

from polyad.adapters_store.feedback import Message
from polyad.serve.learn.data.example import Example, Prompt

_SECRET = re.compile(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.{0,8000}?-----END [A-Z ]{0,30}PRIVATE KEY-----"
    r"|\b(?:sk|pk|rk)[-_](?:live[-_]|test[-_]|proj[-_])?[A-Za-z0-9_-]{16,200}"
    r"|\bgh[pousr]_[A-Za-z0-9]{20,255}\b|\bgithub_pat_[A-Za-z0-9_]{20,255}\b|\bhf_[A-Za-z0-9]{20,60}\b"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bxox[abprs]-[A-Za-z0-9-]{10,200}"
    r"|\beyJ[A-Za-z0-9_-]{10,2000}\.[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,1000}"
    r"|(?i:\b(?:password|passwd|pwd|secret|token|api[-_ ]?key)\b\s{0,3}[:=]\s{0,3})[^\s,;\"']{4,200}",
    re.DOTALL,
)
_EMAIL = re.compile(r"\b[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,5}\b")
_PHONE = re.compile(r"(?<![\w.])(?:\+|00)[1-9]\d{0,2}[ .\-/]?(?:\(?\d{1,4}\)?[ .\-/]?){2,5}\d{2,4}\b")
_CARD = re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_ADDRESS = re.compile(r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\d.])")

_CARD_BASE = 10
_IBAN_BASE = 97


def _is_card(text: str) -> bool:
    digits = [int(digit) for digit in text if digit.isdigit()]
    doubled = [sum(divmod(2 * digit, _CARD_BASE)) for digit in digits[-2::-2]]
    return (sum(doubled) + sum(digits[-1::-2])) % _CARD_BASE == 0


def _is_iban(text: str) -> bool:
    plain = text.replace(" ", "")
    return int("".join(str(int(one, 36)) for one in plain[4:] + plain[:4])) % _IBAN_BASE == 1


_PATTERNS: dict[str, tuple[re.Pattern[str], Callable[[str], bool]]] = {
    "secrets": (_SECRET, lambda _: True),
    "email": (_EMAIL, lambda _: True),
    "iban": (_IBAN, _is_iban),
    "card": (_CARD, _is_card),
    "phone": (_PHONE, lambda _: True),
    "address": (_ADDRESS, lambda _: True),
}


def mask(text: str, kinds: Iterable[str]) -> str:
    """The text with `[kind]` in place of what the patterns of these kinds find."""
    wanted = set(kinds)
    for kind, (pattern, real) in _PATTERNS.items():
        if kind in wanted:
            text = pattern.sub(lambda match: f"[{kind}]" if real(match[0]) else match[0], text)  # noqa: B023
    return text


def masked(example: Example, kinds: Iterable[str]) -> Example:
    """The example with all its texts masked."""
    wanted = tuple(kinds)
    changes: dict[str, object] = {
        "prompt": _prompt(example.prompt, wanted),
        "answer": mask(example.answer, wanted),
        "rejected": None if example.rejected is None else mask(example.rejected, wanted),
    }
    return example.model_copy(update=changes)


def _prompt(prompt: Prompt, kinds: tuple[str, ...]) -> Prompt:
    if isinstance(prompt, str):
        return mask(prompt, kinds)
    return tuple(Message(role=turn.role, content=mask(turn.content, kinds)) for turn in prompt)
