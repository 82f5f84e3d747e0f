import pytest

from polyad.serve.learn.data.masking import mask, masked
from tests.serve.learn.conftest import example

ALL = ("secrets", "email", "phone", "card", "iban", "address")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to ann.lee+x@mail.example.org now", "write to [email] now"),
        ("key sk-proj-abcdefghijklmnopqrstuv is mine", "key [secrets] is mine"),
        ("ghp_abcdefghijklmnopqrstuvwxyz0123456789", "[secrets]"),
        ("AKIAABCDEFGHIJKLMNOP", "[secrets]"),
        ("password: hunter2!", "[secrets]"),
        ("card 4111 1111 1111 1111.", "card [card]."),
        ("order 4111 1111 1111 1112.", "order 4111 1111 1111 1112."),
        ("IBAN DE89 3704 0044 0532 0130 00 please", "IBAN [iban] please"),
        ("IBAN DE88 3704 1044 0532 0130 00 please", "IBAN DE88 3704 1044 0532 0130 00 please"),
        ("call +49 30 901820", "call [phone]"),
        ("from 192.168.17.4, not version 1.2.3", "from [address], not version 1.2.3"),
        ("nothing to hide: 42 and 3.14", "nothing to hide: 42 and 3.14"),
    ],
)
def test_what_is_personal_is_replaced_and_the_rest_is_not(text: str, expected: str) -> None:
    assert mask(text, ALL) == expected


def test_only_the_kinds_of_the_policy_are_masked() -> None:
    assert mask("a@b.org, AKIAABCDEFGHIJKLMNOP", ["email"]) == "[email], AKIAABCDEFGHIJKLMNOP"


def test_all_texts_of_an_example_are_masked() -> None:
    found = masked(example("dpo", "I am a@b.org", "You are a@b.org", rejected="c@d.org"), ["email"])
    assert isinstance(found.prompt, tuple)
    assert (found.prompt[0].content, found.answer, found.rejected) == ("I am [email]", "You are [email]", "[email]")
