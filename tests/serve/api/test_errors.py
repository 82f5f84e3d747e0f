"""Whatever goes wrong before a handler, the answer has OpenAI's shape."""

import pytest

from tests.serve.api.conftest import Face, refused


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/adapters/a/b/c/d", "/v1/adapters/%2e%2e/%2e%2e", "/" + "a" * 5000])
def test_unknown_path(face: Face, path: str) -> None:
    assert refused(face.client.get(path), 404, "Not Found", None) == "Not Found"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PATCH", "/v1/adapters", {"GET", "POST"}),
        ("POST", "/v1/adapters/a", {"GET", "DELETE"}),
        ("OPTIONS", "/v1/adapters", {"GET", "POST"}),
        ("TRACE", "/health", {"GET"}),
        ("HEAD", "/v1/adapters", {"GET", "POST"}),
        ("GET", "/v1/load_lora_adapter", {"POST"}),
        ("BREW", "/v1/adapters", {"GET", "POST"}),
    ],
)
def test_wrong_method(face: Face, method: str, path: str, allow: set[str]) -> None:
    answer = face.client.request(method, path)
    assert answer.status_code in ((405,) if method != "BREW" else (400, 405))
    if method not in ("HEAD", "BREW"):
        refused(answer, 405, "Method Not Allowed", None)
        assert set(answer.headers["allow"].split(", ")) <= allow


@pytest.mark.parametrize("name", ["%00", "%FF%FE", "%ED%A0%80", "%F0%9F%92%A9", "a%2Fb", "%2e%2e", "a" * 3000, "'\"<>"])
@pytest.mark.parametrize("rest", ["", "/versions", "/versions/v1"])
def test_strange_names_are_unknown(face: Face, name: str, rest: str) -> None:
    answer = face.client.get(f"/v1/adapters/{name}{rest}")
    assert answer.status_code == 404, answer.text
    assert len(answer.content) < 1000
    assert face.client.delete(f"/v1/adapters/{name}").status_code in (400, 404)


def test_bytes_that_are_no_http(face: Face) -> None:
    for request in (b"\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"GET /\xff HTTP/1.1\r\n\r\n", b"GET " + b"a" * 100_000):
        status, _, _ = face.raw(request)
        assert status in (0, 400, 404, 414), request[:20]
    assert face.client.get("/health").status_code == 200


def test_headers_that_are_no_text(face: Face) -> None:
    headers = b"Host: \xff\r\nAuthorization: \xff\xfe\r\nContent-Type: \xff\r\n\r\n"
    assert face.raw(b"GET /v1/adapters HTTP/1.1\r\n" + headers, more=True)[0] in (200, 400)
    assert face.raw(b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 200_000 + b"\r\n\r\n")[0] in (0, 200, 400, 431)
    assert face.client.get("/health").status_code == 200
