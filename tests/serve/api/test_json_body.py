"""JSON that no handler may see, and JSON that every handler must."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from polyad.adapters_store.errors import InvalidInput
from tests.serve.api.conftest import Face, refused

Check = Callable[[bytes], None]


@pytest.fixture(scope="session")
def check() -> Check:
    from polyad.serve.api.json_body import read_json

    return read_json


def nested(depth: int) -> bytes:
    return b'{"a": ' * depth + b"1" + b"}" * depth


REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing but space": (b" ", "body"),
    "half": (b'{"a": ', "body"),
    "two": (b"{} {}", "body"),
    "not JSON": (b"{'a': 1}", "body"),
    "not UTF-8": (b'{"a": "\xff"}', "body"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "body"),
    "byte order mark": (b"\xef\xbb\xbf{}", "body"),
    "NaN": (b'{"a": NaN}', "body"),
    "Infinity": (b'{"a": -Infinity}', "body"),
    "beyond a double": (b'{"a": {"b": [1e999]}}', "a.b.0"),
    "beyond 64 bits": (b'{"a": [0, 18446744073709551616]}', "a.1"),
    "below 64 bits": (b'{"a": -9223372036854775809}', "a"),
    "a million digits": (b'{"a": ' + b"9" * 10**6 + b"}", "body"),
    "half a surrogate pair": (b'{"messages": [{"content": "x\\ud83d"}]}', "messages.0.content"),
    "half a pair in a name": (b'{"a": {"\\udc00": 1}}', "a"),
    "deep": (nested(101), ".".join(["a"] * 100)),
    "deeper than the stack": (nested(10**5), "body"),
    "deep lists": (b"[" * 10**6, "body"),
    "many messages": (json.dumps({"messages": [{}] * 2049}).encode(), "messages"),
    "many strings": (json.dumps({"prompt": ["a"] * 2049}).encode(), "prompt"),
    "many ids elsewhere": (json.dumps({"messages": [1] * 2049}).encode(), "messages"),
    "many ids and a string": (json.dumps({"prompt": [*[1] * 2049, "a"]}).encode(), "prompt"),
    "many ids and a bool": (json.dumps({"prompt": [*[1] * 2049, True]}).encode(), "prompt"),
    "many ids, one negative": (json.dumps({"prompt": [*[1] * 2049, -1]}).encode(), "prompt"),
    "many ids, one huge": (json.dumps({"prompt": [*[1] * 2049, 10**30]}).encode(), "prompt"),
    "many keys": (json.dumps({str(key): 1 for key in range(2049)}).encode(), "body"),
    "many biases that are none": (
        json.dumps({"logit_bias": {str(key): "" for key in range(2049)}}).encode(),
        "logit_bias",
    ),
    "many lists in lists": (json.dumps({"a": [[[]] * 100] * 101}).encode(), "body"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_by_the_place_where_it_is(check: Check, what: str) -> None:
    body, field = REFUSED[what]
    with pytest.raises(InvalidInput) as caught:
        check(body)
    assert caught.value.field == field[:200]
    assert len(str(caught.value)) < 800
    str(caught.value).encode()


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        [],
        {"a": [True, None, "\u00e9\U0001f600", -1.5e300, 2**63, -(2**63), 0]},
        {"prompt": [0] * 10**6},
        {"prompt": [[7] * 5000] * 100},
        {"tokens": list(range(10**5))},
        {"allowed_token_ids": list(range(10**5)), "stop_token_ids": [2**31] * 3000},
        {"logit_bias": {str(token): token / 7 for token in range(10**5)}},
        {"messages": [{"role": "user", "content": "a"}] * 2048},
        {"prompt": "\u00e9" * 10**6},
        {"": {"": ""}},
    ],
    ids=lambda value: str(value)[:20],
)
def test_taken(check: Check, value: Any) -> None:
    check(json.dumps(value).encode())
    check(json.dumps(value, ensure_ascii=False).encode())


def test_depth_that_is_allowed(check: Check) -> None:
    check(nested(100))


def test_body_reaches_the_handler_as_it_came(face: Face) -> None:
    body = {"a": "\u00e9" * 10**5, "b": [1.5, None, {"c": -(2**63)}]}
    assert face.client.post("/v1/completions", json=body).json() == body


@pytest.mark.parametrize(
    "kind", ["application/json", "application/json; charset=utf-8", "Application/JSON", "application/x+json"]
)
def test_whatever_says_json_is_checked(face: Face, kind: str) -> None:
    answer = face.client.post("/v1/completions", content=b'{"a": NaN}', headers={"content-type": kind})
    refused(answer, 400, "InvalidInput", "body")


def test_the_first_of_two_kinds_counts_as_for_handlers(face: Face) -> None:
    headers = [("content-type", "application/json"), ("content-type", "text/plain")]
    answer = face.client.post("/v1/completions", content=b'{"a": NaN}', headers=headers)
    refused(answer, 400, "InvalidInput", "body")
    assert face.client.post("/tokenize", content=b'{"a": NaN}', headers=headers[::-1]).json() == 10


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"messages": [{"content": "x"}, {"content": [{"type": "text"}, {"uuid": "a"}]}]}, "messages.1.content.1.uuid"),
        ({"messages": [[], [{"content": [{"image_url": None, "uuid": "a"}]}]]}, "messages.1.0.content.0.uuid"),
        ({"input": [{"content": [{"type": "input_image", "uuid": ""}]}]}, "input.0.content.0.uuid"),
    ],
)
def test_a_name_for_an_image_is_refused(face: Face, body: dict[str, Any], field: str) -> None:
    refused(face.client.post("/v1/completions", json=body), 400, "Unsupported", field)
    harmless = {
        "metadata": {"uuid": "a"},
        "messages": [{"content": [{"uuid": None}], "uuid": "b"}, "x", 1],
        "input": "y",
    }
    assert face.client.post("/v1/completions", json=harmless).json() == harmless


@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream", "json", "", "\xff"])
def test_what_does_not_is_left_to_the_handler(face: Face, kind: str) -> None:
    headers = {"content-type": kind.encode("latin-1")}
    assert face.client.post("/tokenize", content=b'{"a": NaN}', headers=headers).json() == 10


def test_json_has_a_limit_of_its_own_where_uploads_are_large(new_face: Callable[..., Face]) -> None:
    body = b'{"name": "' + b"a" * 33 * 2**20
    with new_face(max_adapter_bytes=100 * 2**20) as large:
        answer = large.client.post("/v1/adapters", content=body, headers={"content-type": "application/json"})
        assert refused(answer, 413, "TooLarge", "body").endswith("bytes of JSON")


@pytest.mark.parametrize("what", REFUSED)
def test_bad_json_costs_little(check: Check, what: str) -> None:
    started = time.process_time()
    with pytest.raises(InvalidInput):
        check(REFUSED[what][0])
    assert time.process_time() - started < 2
