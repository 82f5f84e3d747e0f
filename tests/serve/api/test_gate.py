"""Bodies that are too large, whatever they claim; and an engine that is away."""

import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.serve.api.conftest import Face, refused

MIB = 2**20


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits here for a body that was announced and never comes."""
    monkeypatch.setattr("polyad.serve.api.gate._LINGER_S", 0.2)


@pytest.fixture
def away(face: Face) -> Iterator[None]:
    face.engine.ready = False
    yield
    face.engine.ready = True


def request(path: str, headers: str, body: bytes = b"", method: str = "POST", kind: str = "application/json") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\n{headers}\r\n\r\n"
    return head.encode("latin-1") + body


def chunked(*pieces: bytes) -> bytes:
    return b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in (*pieces, b""))


@pytest.mark.parametrize(
    ("path", "length"),
    [("/v1/completions", 32 * MIB), ("/tokenize", 2 * MIB), ("/v1/adapters", 2 * 200_000 + 2 * MIB)],
)
def test_announced_length_is_refused_before_the_body(face: Face, path: str, length: int) -> None:
    for claimed in (length + 1, 10**18, 10**40):
        status, headers, body = face.raw(request(path, f"Content-Length: {claimed}"), more=True)
        # The parser of HTTP itself knows no number beyond 64 bits.
        assert status == (413 if claimed < 2**63 else 400)
        if status == 413:
            assert headers["connection"] == "close"
            assert b'"type":"TooLarge"' in body and b'"param":"body"' in body


def test_body_of_the_largest_size_is_taken(face: Face) -> None:
    text = "a" * (2 * MIB - 2)
    answer = face.client.post("/tokenize", json=text)
    assert answer.json() == 2 * MIB
    # Such a client reads no answer before it has sent everything.
    refused(face.client.post("/tokenize", json=text + "a"), 413, "TooLarge", "body")
    refused(face.client.post("/tokenize", content=iter([b"a" * 2 * MIB, b"a"])), 413, "TooLarge", "body")


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "multipart/form-data; boundary=x", ""])
@pytest.mark.parametrize("path", ["/tokenize", "/v1/adapters"])
def test_chunks_are_counted(face: Face, path: str, kind: str) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="weights"; filename="w"\r\n\r\n' if "multi" in kind else b'"'
    body = chunked(part, *[b"a" * 65536] * 40)
    status, headers, answer = face.raw(request(path, "Transfer-Encoding: chunked", body, kind=kind))
    if path == "/v1/adapters" and kind in ("text/plain", ""):
        assert status == 400 and b"content-type" in answer  # it is not read at all
        return
    assert status == 413, answer
    assert headers["connection"] == "close"


def test_many_small_chunks_are_counted_together(face: Face) -> None:
    body = chunked(b'"', *[b"a" * 64] * 40_000)
    assert face.raw(request("/tokenize", "Transfer-Encoding: chunked", body))[0] == 413


def test_lengths_that_contradict_each_other_are_refused(face: Face) -> None:
    assert face.raw(request("/tokenize", "Content-Length: 5\r\nContent-Length: 6", b"12345"))[0] == 400
    assert face.raw(request("/tokenize", "Content-Length: -5", b"12345"))[0] == 400
    assert face.raw(request("/tokenize", "Content-Length: 0x5", b"12345"))[0] == 400
    both = request("/tokenize", "Content-Length: 5\r\nTransfer-Encoding: chunked", chunked(b"12345"))
    assert face.raw(both)[0] in (200, 400)


@pytest.mark.parametrize("path", ["/tokenize", "/v1/adapters", "/v1/completions"])
@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x"])
def test_client_that_leaves_early_is_no_fault_of_ours(
    face: Face, path: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    face.raw(request(path, "Content-Length: 1000", b'{"name": ', kind=kind))
    assert face.client.get("/health").status_code == 200
    time.sleep(0.1)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_slow_body_holds_nobody_up(face: Face) -> None:
    with socket.create_connection(("127.0.0.1", face.port)) as slow:
        slow.sendall(request("/tokenize", "Content-Length: 10", b"1"))
        for _ in range(20):
            assert face.client.get("/health").status_code == 200


@pytest.mark.usefixtures("away")
@pytest.mark.parametrize("path", ["/v1/completions", "/tokenize", "/v1/load_lora_adapter", "/v1/no-such-path"])
def test_inference_waits_for_the_engine(face: Face, path: str) -> None:
    answer = face.client.post(path, json={})
    refused(answer, 503, "EngineUnavailable", None)
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.usefixtures("away")
def test_what_needs_no_engine_goes_on(face: Face, name: str) -> None:
    assert face.push(name).status_code == 201
    for path in ("/v1/adapters", f"/v1/adapters/{name}", "/health", "/version", "/openapi.json", "/docs"):
        assert face.client.get(path).status_code == 200
    assert face.client.get("/ready").status_code == 503


@pytest.mark.usefixtures("away")
def test_refusal_does_not_wait_for_the_body(face: Face) -> None:
    status, _, _ = face.raw(request("/v1/completions", "Content-Length: 1000"), more=True)
    assert status == 503


def test_connection_is_used_again_after_a_refusal(face: Face) -> None:
    with httpx.Client(base_url=face.client.base_url, limits=httpx.Limits(max_connections=1)) as client:
        for _ in range(3):
            assert client.post("/v1/completions", json=[]).status_code == 400
            assert client.post("/v1/completions", json={"a": 1}).json() == {"a": 1}
