import re
import time

import pytest

from polyad.adapters_store.admission.pattern_process import CPU_SECONDS
from polyad.adapters_store.admission.patterns import Pattern, match_patterns
from polyad.adapters_store.errors import InvalidAdapter, TooLarge

TEXTS = [f"model.layers.{layer}.{part}" for layer in (0, 1, 11) for part in ("mlp.up_proj", "self_attn.q_proj")]


@pytest.mark.parametrize("mode", ["match", "fullmatch"])
@pytest.mark.parametrize(
    "expression", ["model", r".*(q|up)_proj", r"(?:^|.*?\.)layers\.(?P<idx>\d+)\.", "a|model.*", ""]
)
def test_the_same_as_re(mode: str, expression: str) -> None:
    expected = {text: hit.groupdict().get("idx") for text in TEXTS if (hit := getattr(re, mode)(expression, text))}
    assert match_patterns([Pattern("field", mode, expression)] * 2, TEXTS) == [expected, expected]  # type: ignore[arg-type]


def test_a_pattern_that_would_take_for_ever_is_stopped() -> None:
    started = time.monotonic()
    with pytest.raises(InvalidAdapter, match=f"the field.*within {CPU_SECONDS} s"):
        match_patterns([Pattern("the field", "fullmatch", r"((\w+\.?)+)+!")], TEXTS)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("expression", ["(", "(" * 500 + ")" * 500, "a{99999999999}", "(?P<a>x)(?P<a>y)", "x**", "\\"])
def test_invalid_expressions_name_their_field(expression: str) -> None:
    with pytest.raises(InvalidAdapter, match=r"second: .*a regular expression"):
        match_patterns([Pattern("first", "match", "x"), Pattern("second", "match", expression)], TEXTS)


def test_too_many_patterns() -> None:
    with pytest.raises(TooLarge, match="field: got 501"):
        match_patterns([Pattern("field", "match", "x")] * 501, ["text"] * 1000)


def test_nothing_to_match() -> None:
    assert match_patterns([], TEXTS) == []
    assert match_patterns([Pattern("field", "match", "x")], []) == [{}]
