import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyad.serve.compose.number import number_end, number_text


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", "0"),
        ("0.7", "0.7"),
        ("-1", "-1"),
        ("1e-2", "1e-2"),
        ("1e+2x", "1e+2"),
        (".5", ".5"),
        ("-.5e3", "-.5e3"),
        ("007", "007"),
        ("1.", "1"),
        ("1.e5", "1"),
        ("1e", "1"),
        ("1e-", "1"),
        ("1E5", "1"),
        ("1-2", "1"),
        ("1.2.3", "1.2"),
        ("", ""),
        ("-", ""),
        ("--1", ""),
        ("+1", ""),
        (".", ""),
        ("-.", ""),
        ("e5", ""),
        ("nan", ""),
        ("inf", ""),
        ("1_000", "1"),
        ("\N{ARABIC-INDIC DIGIT TWO}", ""),
        ("\N{SUPERSCRIPT TWO}", ""),
    ],
)
def test_how_far_a_number_goes(text: str, number: str) -> None:
    assert text[: number_end(text, 0)] == number
    assert f"x{text}"[1 : number_end(f"x{text}", 1)] == number


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63 - 1))
@settings(deadline=None)
def test_text_reads_back_as_the_same_number(number: float) -> None:
    text = number_text(number)
    assert number_end(text, 0) == len(text)
    assert (int(text) if isinstance(number, int) else float(text)) == number
    assert len(text) <= 25


@pytest.mark.parametrize(
    ("number", "text"),
    [(1.0, "1"), (-2.0, "-2"), (0.7, "0.7"), (1e-5, "1e-05"), (1000.0, "1000"), (1e17, "1" + "0" * 17)],
)
def test_text_is_short(number: float, text: str) -> None:
    assert number_text(number) == text
