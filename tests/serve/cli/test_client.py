import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from polyad.serve.cli.main import polyad

Run = Callable[..., Result]

CONTROLS = rb'{"error":{"message":"a\n\u001bb"}}'


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that reads a request and sends these bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(10)


def test_refused_connection_says_where_and_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    result = CliRunner().invoke(polyad, ["adapter", "ls", "--url", f"http://127.0.0.1:{port}"])
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"polyad: no server answers at http://127.0.0.1:{port} ")
    assert "polyad serve MODEL" in result.stderr and "POLYAD_URL" in result.stderr


def test_a_password_in_the_url_is_not_shown() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for url in (f"http://user:secret@127.0.0.1:{port}", "http://user:secret@x:99999", "http://user:sec/secret@x"):
        result = CliRunner().invoke(polyad, ["models", "--url", url])
        assert result.exit_code in (1, 2)
        assert "***@" in result.stderr and "secret" not in result.output
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>") as url:
        result = CliRunner().invoke(polyad, ["models", "--url", url.replace("//", "//user:secret@")])
    assert "http://***@127.0.0.1" in result.stderr and "secret" not in result.output


def test_error_of_the_server_is_one_line(run: Run) -> None:
    result = run("adapter", "show", "nobody")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "polyad: adapter: 'nobody' does not exist (404 Not Found)\n"


def test_key_goes_into_the_header_and_nowhere_else(guarded: Any, folder: Path) -> None:
    arguments = ["adapter", "push", "robot", str(folder), "--url", guarded.url]
    refused = CliRunner().invoke(polyad, arguments)
    assert refused.exit_code == 1
    assert refused.stderr == (
        "polyad: authorization: what is public is changed by admins of the tenant public (403 Forbidden)\n"
    )
    allowed = CliRunner(env={"POLYAD_KEY": "the-admin-key"}).invoke(polyad, arguments)
    assert allowed.exit_code == 0
    assert guarded.keys == {"", "Bearer the-admin-key"}
    assert "the-admin-key" not in allowed.output


@pytest.mark.parametrize("key", ["schlüssel", "se\ncret"])
def test_impossible_key_is_not_shown(fake: Any, run: Run, key: str) -> None:
    result = run("adapter", "ls", "--key", key)
    assert result.exit_code == 2
    assert key not in result.output and "a key has only printable ASCII characters" in result.stderr
    assert fake.requests == []


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", "http://x:99999", "http://x?y=1", "http://[x"])
def test_impossible_url_is_a_usage_error(url: str) -> None:
    result = CliRunner().invoke(polyad, ["models", "--url", url])
    assert result.exit_code == 2
    assert f"got {url!r}, allowed: http://host:port" in result.stderr


def test_url_may_have_a_path_and_a_slash(fake: Any, run: Run) -> None:
    assert run("models", "--url", f"{fake.url}/").exit_code == 0
    result = run("models", "--url", f"{fake.url}/broken/")
    assert result.stderr == f"polyad: {fake.url}/broken answered 502 Bad Gateway: '\"no\"'\n"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", "is no polyad server: expected JSON, got '<html>'"),
        (b"", "was lost: Server disconnected without sending a response."),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", "answered 500 Oops: ''"),
        (b"HTTP/1.1 400 No\r\nContent-Length: 34\r\n\r\n" + CONTROLS, "polyad: a ?b (400 No)"),
    ],
)
def test_strange_answers_are_one_line(answer: bytes, message: str) -> None:
    with answering(answer) as url:
        result = CliRunner().invoke(polyad, ["models", "--url", url])
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.startswith("polyad: ") and result.stderr.count("\n") == 1


def test_loopback_is_not_asked_of_a_proxy(fake: Any, run: Run) -> None:
    proxies = {name: "http://127.0.0.1:9" for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")}
    assert run("models", env={**proxies, "no_proxy": "", "NO_PROXY": ""}).exit_code == 0
