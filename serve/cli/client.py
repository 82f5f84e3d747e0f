"""The HTTP API as the commands use it: every failure is one line that says what to do."""

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec
from urllib.parse import urlsplit

import click

from polyad.adapters_store.masking import masked
from polyad.serve.cli.event_stream import events
from polyad.serve.cli.failure import Failure

if TYPE_CHECKING:
    import httpx

Parameters = ParamSpec("Parameters")

DEFAULT_URL = "http://127.0.0.1:8000"
URL_RULE = "http://host:port or https://host:port"

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_CONNECT_S = 5.0
# A push is answered after its admission, a chat after its prompt: both can take their time.
_ANSWER_S = 600.0
_PAGE = 200
_EXCERPT = 200


class Client:
    """One server. Every method raises Failure."""

    def __init__(self, url: str, key: str | None) -> None:
        import httpx

        # As messages show it.
        self.url = masked(url)
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(_ANSWER_S, connect=_CONNECT_S),
            # A proxy from the environment cannot reach this machine's own loopback.
            trust_env=urlsplit(url).hostname not in _LOOPBACK,
        )

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def send(self, method: str, path: str, **options: Any) -> "httpx.Response":
        """The response to a request, if it is a success."""
        with self._explained():
            response = self._http.request(method, path, **options)
        self._check(response)
        return response

    def call(self, method: str, path: str, **options: Any) -> Any:
        """The JSON that answers a request."""
        return self.json(self.send(method, path, **options))

    def pages(self, path: str, **parameters: str) -> Iterator[dict[str, Any]]:
        """Every entry of a paged list."""
        after: str | None = None
        while True:
            cursor = {} if after is None else {"after": after}
            page = self.call("GET", path, params={"limit": _PAGE, **parameters, **cursor})
            yield from page["data"]
            after = page.get("after")
            if after is None:
                return

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The events of a streamed answer, to its end."""
        with self._explained(), self._http.stream("POST", path, json=body) as response:
            if not response.is_success:
                response.read()
            self._check(response)
            for event in events(response.iter_bytes()):
                if "error" in event:
                    raise Failure(f"the answer ended with an error: {_message(event) or event['error']}")
                yield event

    def _check(self, response: "httpx.Response") -> None:
        if response.is_success:
            return
        status = f"{response.status_code} {response.reason_phrase}".strip()
        try:
            message = _message(response.json())
        except ValueError:
            message = None
        if message is None:
            raise Failure(f"{self.url} answered {status}: {response.text[:_EXCERPT]!r}")
        raise Failure(f"{message} ({status})")

    def json(self, response: "httpx.Response") -> Any:
        """The JSON in a response."""
        try:
            return response.json()
        except ValueError:
            excerpt = response.text[:_EXCERPT]
            raise Failure(f"{self.url} is no polyad server: expected JSON, got {excerpt!r}") from None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        import httpx

        try:
            yield
        except httpx.ConnectError as error:
            hint = "start one with `polyad serve MODEL`, or name another with --url or POLYAD_URL"
            raise Failure(f"no server answers at {self.url} ({error}); {hint}") from error
        except httpx.TimeoutException as error:
            raise Failure(f"{self.url} did not answer in time ({type(error).__name__})") from error
        except httpx.HTTPError as error:
            raise Failure(f"the connection to {self.url} was lost: {error or type(error).__name__}") from error


def remote(function: Callable[Concatenate[Client, bool, Parameters], None]) -> Callable[..., None]:
    """Give a command --url, --key and --json; the function gets a client, and whether to print JSON."""

    @click.option(
        "--url",
        default=DEFAULT_URL,
        envvar="POLYAD_URL",
        show_default=True,
        show_envvar=True,
        callback=_url,
        help="Address of the server.",
    )
    @click.option("--key", envvar="POLYAD_KEY", show_envvar=True, callback=_key, help="Key that the server asks for.")
    @click.option("--json", "as_json", is_flag=True, help="Print the server's JSON.")
    @functools.wraps(function)
    def command(url: str, key: str | None, as_json: bool, *args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        with Client(url, key) as client:
            function(client, as_json, *args, **kwargs)

    return command


def print_json(value: Any) -> None:
    """JSON on stdout, for scripts."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _message(body: Any) -> str | None:
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) else None


def _url(_: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        parts = urlsplit(value)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise click.BadParameter(f"got {masked(value)!r}, allowed: {URL_RULE}")
    return value.rstrip("/")


def _key(_: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    # Never quoted: what cannot be a key may still be most of one.
    if value is not None and not (value.isascii() and value.isprintable()):
        raise click.BadParameter("a key has only printable ASCII characters")
    return value
