"""What is read as a composition, what is refused, and where the error says that it went wrong."""

import contextlib
import sys
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from polyad.adapters_store.errors import InvalidInput, InvalidName
from polyad.adapters_store.names import MODEL_RULE, NAME_RULE, VERSION_RULE
from polyad.serve.compose import Reference, parse
from polyad.serve.compose.parser import is_composition
from tests.fixtures.fuzzing import fuzz

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
    assert parse(text) == Reference(adapter, reference)


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
    "reference with two dots": "support@a..b",
    "reference in upper case": "support@V1",
    "no reference": "support@",
    "no name": "@canary",
    "only the sign": "@",
    "two references": "support@v1@v2",
    "blank reference": "support@ ",
    "fullwidth sign": "support\N{FULLWIDTH COMMERCIAL AT}v1",
    "fullwidth version": "support@v\N{FULLWIDTH DIGIT ONE}",
    "cyrillic reference": "support@\N{CYRILLIC SMALL LETTER A}",
    "names side by side": "support tone",
    "comma": "support, code",
    "dash behind a name": "support- tone",
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


NAME = "a name such as support or support@v3, a method such as ties(, or ("
NUMBER = "a number from -1000 to 1000"
BEHIND = f"{NUMBER}; a weight stands behind its *, as in support*0.7"
NO_FUSION = "what makes a delta; a fusion combines outputs: it stands alone or within another fusion"
VALUE = f"a finite number (a whole one within 64 bits), true, false, or a word: {NAME_RULE}"
ARGUMENT_ENDS = "+, -, *, a comma, ; or )"

MALFORMED = [
    ("+", "+", 1, NAME),
    ("a +", "", "end", NAME),
    ("a + + b", "+", 5, NAME),
    ("a - -b", "-b", 5, NAME),
    ("-a + b", "-a", 1, NAME),
    ("a*", "", "end", BEHIND),
    ("a*b", "b", 3, BEHIND),
    ("0.5*a", "a", 5, BEHIND),
    ("a*0.5x", "0.5x", 3, BEHIND),
    ("a*1.5.2", "1.5.2", 3, BEHIND),
    ("a*1e5.2", "1e5.2", 3, BEHIND),
    ("a*+1", "+", 3, BEHIND),
    ("a*- 1", "-", 3, BEHIND),
    ("a*nan", "nan", 3, BEHIND),
    ("a*(b)", "(", 3, BEHIND),
    ("a*\N{FULLWIDTH DIGIT ONE}", "\N{FULLWIDTH DIGIT ONE}", 3, BEHIND),
    ("a*1001", "1001", 3, NUMBER),
    ("a*-1000.5", "-1000.5", 3, NUMBER),
    ("a*1e999", "1e999", 3, NUMBER),
    ("(a + b", "", "end", "+, -, * or )"),
    ("a + b)", ")", 6, "+, -, * or the end"),
    ("(a b)", "b", 4, "+, -, * or )"),
    ("a + b c", "c", 7, "+, -, * or the end"),
    ("a @v1 + b", "@", 3, "+, -, * or the end"),
    ("a@v1@v2 + b", "@", 5, "+, -, * or the end"),
    ("a, b + c", ",", 2, "+, -, * or the end"),
    ("a;b", ";", 2, "+, -, * or the end"),
    ("ties@v1(a)", "(", 8, "+, -, * or the end"),
    ("ties()", ")", 6, NAME),
    ("ties(a,)", ")", 8, NAME),
    ("ties(a b)", "b", 8, ARGUMENT_ENDS),
    ("ties(a", "", "end", ARGUMENT_ENDS),
    ("ties(a;)", ")", 8, "an option such as density=0.2"),
    ("ties(a; density)", ")", 16, "= and a value"),
    ("ties(a; density 0.2)", "0.2", 17, "= and a value"),
    ("ties(a; density=)", ")", 17, VALUE),
    ("ties(a; density=@)", "@", 17, VALUE),
    ("ties(a; density=-x)", "-x", 17, VALUE),
    ("ties(a; density=1e999)", "1e999", 17, VALUE),
    ("ties(a; seed=9223372036854775808)", "9223372036854775808", 14, VALUE),
    ("ties(a; x=1 y=2)", "y", 13, "a comma or )"),
    ("ties(a; x=1; y=2)", ";", 12, "a comma or )"),
    ("ties(a; x=1, x=2)", "x", 14, "each option once"),
    ("fuse(a)*0.5", "*", 8, NO_FUSION),
    ("fuse(a) + b", "+", 9, NO_FUSION),
    ("a - fuse(b)", "fuse", 5, NO_FUSION),
    ("ties(a, (fuse(b)))", "(", 9, NO_FUSION),
    ("a\0*2", "a\0", 1, MODEL_RULE),
    ("Support*0.7", "Support", 1, MODEL_RULE),
    ("a + supp\N{CYRILLIC SMALL LETTER O}rt", "supp\N{CYRILLIC SMALL LETTER O}rt", 5, MODEL_RULE),
    ("a\N{NO-BREAK SPACE}+ b", "a\N{NO-BREAK SPACE}", 1, MODEL_RULE),
    ("org/model*2", "org/model", 1, MODEL_RULE),
    ("base:a + b", "base:a", 1, MODEL_RULE),
    (f"{'a' * 64} + b", "a" * 64, 1, MODEL_RULE),
    ("ties(a; Density=1)", "Density", 9, NAME_RULE),
    ("a@V1 + b", "V1", 3, VERSION_RULE),
    ("a@ + b", "", 3, VERSION_RULE),
    ("b + a@", "", "end", VERSION_RULE),
]


@pytest.mark.parametrize(("text", "came", "place", "allowed"), MALFORMED, ids=[case[0][:20] for case in MALFORMED])
def test_malformed_composition_says_what_came_where_and_what_may_come(
    text: str, came: str, place: int | str, allowed: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse(text)
    kind = InvalidName if allowed in (MODEL_RULE, NAME_RULE, VERSION_RULE) else InvalidInput
    where = f"at character {place}" if isinstance(place, int) else f"at the {place}"
    assert type(refused.value) is kind
    assert refused.value.field == "model"
    assert str(refused.value).startswith(f"model: got {came!r} {where} of ")
    assert str(refused.value).endswith(f"', allowed: {allowed}")


@pytest.mark.parametrize(
    ("text", "around"),
    [
        ("a + )", "'a + )'"),
        (f"a*{'t' * 200}", f"'a*{'t' * 24}…'"),
        (f"{'t' * 59}* + {'t' * 200}", f"'…{'t' * 22}* + {'t' * 22}…'"),
        (f"{'t' * 59}*", f"'…{'t' * 23}*'"),
    ],
)
def test_text_around_the_place_is_cut(text: str, around: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse(text)
    assert f" of {around}, allowed" in str(refused.value)


def test_position_counts_from_the_beginning_of_the_whole_text() -> None:
    with pytest.raises(InvalidInput, match="at character 8 of 'base:a\\*x'"):
        parse("base:a*x", start=5)
    assert parse("base:a*2", start=5) == parse("a*2")
    with pytest.raises(InvalidInput, match="^expression: got"):
        parse("a*x", field="expression")


def nested(depth: int, opening: str) -> str:
    return opening * depth + "a" + ")" * depth


BOUNDS = {
    "length": (f"a +{' ' * 1021}b", f"a +{' ' * 1020}b", "at most 1024 characters"),
    "length of names": (f"{'a' * 64} + {'b' * 63}", f"{'a' * 63} + {'b' * 63}", MODEL_RULE),
    "parentheses": (nested(9, "("), nested(8, "("), "at most 8 parentheses within each other"),
    "calls": (nested(9, "ties("), nested(8, "ties("), "at most 8 parentheses within each other"),
    "terms": (" + ".join(f"a{n}" for n in range(65)), " + ".join(f"a{n}" for n in range(64)), "at most 64 names"),
    "calls are terms": ("+".join(["t(a)"] * 33), "+".join(["t(a)"] * 32), "at most 64 names and methods in all"),
    "options": (
        f"t(a; {', '.join(f'x{n}=1' for n in range(17))})",
        f"t(a; {', '.join(f'x{n}=1' for n in range(16))})",
        "at most 16 options",
    ),
    "weight": ("a*1000.0000001", "a*1000 + b*-1000", "a number from -1000 to 1000"),
    "weight multiplied": ("a*1000*1.001", "a*1000*2*0.5", "for 'a', multiplied and added up"),
    "weight added up": ("a*600 + a*600", "a*600 + a*600 - a*600", "got 1200.0 for 'a'"),
    "written out": (
        f"({' + '.join(f'a{n}' for n in range(60))})*0.12345678901234567",
        f"({' + '.join(f'a{n}' for n in range(60))})*0.5",
        "at most 1024 characters, weights multiplied out",
    ),
}


@pytest.mark.parametrize("what", BOUNDS)
def test_each_bound_is_named_and_can_be_reached(what: str) -> None:
    beyond, within, message = BOUNDS[what]
    with pytest.raises(InvalidInput) as refused:
        parse(beyond)
    assert message in str(refused.value)
    assert len(str(refused.value)) < 900
    parse(within)


@given(st.text(max_size=80) | st.from_regex(r"[a-z0-9._@:/-]{0,80}", fullmatch=True))
@settings(deadline=None)
def test_any_plain_text_is_either_refused_or_read_back_as_it_was(text: str) -> None:
    try:
        expression = parse(text)
    except InvalidInput:
        return
    if isinstance(expression, Reference) and not is_composition(text):
        assert str(expression) == text.removesuffix("@production")
        assert "/" not in expression.adapter
        assert ".." not in expression.adapter
    assert text.isascii()


PIECES = [
    *"+-*(),;=@. \t\nae0179\0\u00e9",
    *("support", "ties(", "fuse(", "0.5", "*0.5", " - ", "1e-2", "1e-300", "*5e-324", "; x=", "a@v1", "..", "\ud800"),
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=60).map("".join) | st.text(max_size=60)


@fuzz(400)
@given(TEXTS)
@example("(" * 1024)
@example("ties(" * 200)
@example("a*5e-324" + "*5e-324" * 140)
@example(" + ".join(f"a{n}*5e-324" + "*5e-324" * 8 for n in range(15)) + " + a")
@example("+".join("a*1000*1000*1000*1000*1000*1000*1000" for _ in range(20)))
@example("a*" + "9" * 1000)
@example("a*0." + "0" * 1000 + "1")
@example("t(a;x=" + "9" * 1000 + ")")
@example("a -" * 340)
@example("(" + " " * 1020 + ")")
@example("\n" * 2000)
def test_no_text_makes_the_parser_raise_anything_else_recurse_deeply_or_go_on_for_long(text: str) -> None:
    parsed: list[object] = []

    def read() -> None:
        with contextlib.suppress(InvalidInput):
            parsed.append(parse(text))

    assert calls_of(read) < 300 + 60 * min(len(text), 1024)
    for expression in parsed:
        assert parse(str(expression)) == expression


def calls_of(function: Callable[[], None]) -> int:
    """How many calls a function makes, on a stack with no room for unbounded recursion."""
    counted = 0

    def count(_: object, event: str, argument: object) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    limit, deep, frame = sys.getrecursionlimit(), 0, sys._getframe()
    while frame := frame.f_back:  # type: ignore[assignment]
        deep += 1
    sys.setrecursionlimit(deep + 120)
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(before)
        sys.setrecursionlimit(limit)
    return counted
