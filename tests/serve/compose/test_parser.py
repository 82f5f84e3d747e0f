import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyad.adapters_store.errors import InvalidInput
from polyad.serve.compose import Expression, parse

DIGEST = "0f3a" * 16


@pytest.mark.parametrize(
    ("text", "adapter", "reference"),
    [
        ("support", "support", "production"),
        ("support@production", "support", "production"),
        ("support@canary", "support", "canary"),
        ("support@v3", "support", "v3"),
        (f"support@{DIGEST}", "support", DIGEST),
        ("support@0f3a0f3a0f3a", "support", "0f3a0f3a0f3a"),
        ("0", "0", "production"),
        ("a.b-c_d", "a.b-c_d", "production"),
        ("a" * 63, "a" * 63, "production"),
        (f"{'a' * 63}@{'b' * 63}", "a" * 63, "b" * 63),
    ],
)
def test_what_is_understood(text: str, adapter: str, reference: str) -> None:
    assert parse(text) == Expression(adapter, reference)


REFUSED = {
    "empty": "",
    "blank": " ",
    "padded": " support ",
    "trailing newline": "support\n",
    "null byte": "support\0",
    "upper case": "Support",
    "begins with a dot": ".support",
    "begins with a dash": "-support",
    "two dots": "a..b",
    "parent folder": "..",
    "path": "../support",
    "absolute path": "/etc/passwd",
    "windows path": "c:\\support",
    "home": "~/support",
    "url": "file:///etc/passwd",
    "hub name": "org/support",
    "percent": "%2e%2e",
    "cyrillic o": "supp\N{CYRILLIC SMALL LETTER O}rt",
    "fullwidth": "\N{FULLWIDTH LATIN SMALL LETTER S}upport",
    "combining accent": "support\N{COMBINING ACUTE ACCENT}",
    "zero width space": "sup\N{ZERO WIDTH SPACE}port",
    "right to left mark": "support\N{RIGHT-TO-LEFT MARK}",
    "long s": "\N{LATIN SMALL LETTER LONG S}upport",
    "superscript digit": "support\N{SUPERSCRIPT TWO}",
    "arabic digit": "support\N{ARABIC-INDIC DIGIT TWO}",
    "64 characters": "a" * 64,
    "257 characters": "a" * 257,
    "a million characters": "a" * 1_000_000,
    "long reference": f"support@{'a' * 250}",
    "no reference": "support@",
    "no name": "@canary",
    "only the sign": "@",
    "two references": "support@v1@v2",
    "blank reference": "support@ ",
    "fullwidth sign": "support\N{FULLWIDTH COMMERCIAL AT}v1",
    "fullwidth version": "support@v\N{FULLWIDTH DIGIT ONE}",
    "cyrillic reference": "support@\N{CYRILLIC SMALL LETTER A}",
    "blend": "support*0.7 + tone*0.3",
    "call": "ties(support, code)",
    "base model and colon": "base:support",
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused_is_named_and_shown_at_a_bounded_length(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse(text)
    assert refused.value.field == "model"
    assert str(refused.value).startswith("model: got ")
    assert "allowed: " in str(refused.value)
    assert len(str(refused.value)) < 600


@given(st.text(max_size=80) | st.from_regex(r"[a-z0-9._@:/-]{0,80}", fullmatch=True))
def test_any_text_is_either_refused_or_read_back_as_it_was(text: str) -> None:
    try:
        expression = parse(text)
    except InvalidInput:
        return
    assert str(expression) == text.removesuffix("@production")
    assert text.isascii()
    assert "/" not in expression.adapter
    assert ".." not in expression.adapter
