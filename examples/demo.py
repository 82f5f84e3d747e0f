"""A tour of polyad: base model, adapters, swap under load, rollback. `make demo`, or `python examples/demo.py`.

Starts `polyad serve --example` on a free port, speaks to it with the `openai` package and httpx, and stops it. Ends 0
only if every answer was what its step promises.
"""

import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import openai
from demo_server import DemoServer

HERE = Path(__file__).parent
ADAPTER, OTHER = "robot", "helpdesk"
ANSWERS = json.loads((HERE / "questions.json").read_text())
# The base model is never as certain of its words as the adapters are of theirs: only the fact is held against it.
FACTS = {"What is the capital of France?": "Paris", "How many days are there in a week?": "7"}
MAX_TOKENS = 48
STREAMS = 4
REQUEST_S = 60.0
LOAD_S = 60.0


class Failed(Exception):
    """A step did not do what it promises."""


def stored(name: str) -> dict[str, str]:
    """Question and answer of transformers and PEFT, decoded greedily."""
    return {entry["question"]: entry["answer"] for entry in ANSWERS[name]}


def shared_questions() -> list[str]:
    """What both adapters were taught, and answer differently; the longest answers first."""
    ours, others = stored(ADAPTER), stored(OTHER)
    shared = [question for question in ours if question in others and ours[question] != others[question]]
    return sorted(shared, key=lambda question: -len(ours[question]))


def check(promise: str, held: bool) -> None:
    """Print what was promised and whether it held. Raises Failed."""
    print(f"   {'ok' if held else 'FAILED'}: {promise}", flush=True)
    if not held:
        raise Failed(promise)


class Visitor:
    """One client of the server."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=REQUEST_S, trust_env=False)
        self.openai = openai.OpenAI(
            base_url=f"{url}/v1",
            api_key="none",
            max_retries=0,
            http_client=openai.DefaultHttpxClient(trust_env=False),
            timeout=REQUEST_S,
        )

    def ask(self, model: str, question: str) -> str:
        """Print question and answer, and return the answer."""
        print(f"   Q ({model}): {question}", flush=True)
        answer = "".join(self.stream(model, question))
        print(f"   A: {answer}", flush=True)
        return answer

    def stream(self, model: str, question: str) -> Iterator[str]:
        """The pieces of a greedy answer."""
        message: Any = {"role": "user", "content": question}
        chunks = self.openai.chat.completions.create(
            model=model, messages=[message], temperature=0, max_tokens=MAX_TOKENS, stream=True
        )
        for chunk in chunks:
            if chunk.choices and chunk.choices[0].delta.content:
                yield chunk.choices[0].delta.content

    def call(self, method: str, path: str, **options: Any) -> Any:
        """The JSON that answers a request. Raises httpx.HTTPStatusError, with the server's message."""
        response = self.http.request(method, path, **options)
        if response.is_error:
            message = f"{method} {path}: {response.status_code} {response.text}"
            raise httpx.HTTPStatusError(message, request=response.request, response=response)
        return response.json()


@dataclass
class Stream:
    """One streamed answer under load. Times are those of time.monotonic()."""

    began: float
    first: float | None = None
    ended: float | None = None
    text: str = ""


@dataclass
class Load:
    """Streams that keep asking one question until they are told to stop."""

    visitor: Visitor
    model: str
    question: str
    streams: list[Stream] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Load":
        self._threads = [threading.Thread(target=self._keep_asking, daemon=True) for _ in range(STREAMS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join(REQUEST_S)

    def wait_until_under_way(self, since: float = 0.0) -> None:
        """Return when most of the streams, begun after `since`, are in the middle of an answer. Raises Failed."""
        deadline = time.monotonic() + LOAD_S
        while time.monotonic() < deadline and not self.errors:
            begun = [stream for stream in self.streams if stream.began > since and stream.first is not None]
            if sum(stream.ended is None for stream in begun) >= STREAMS - 1:
                return
            time.sleep(0.005)
        raise Failed(f"the streams do not run: {self.errors}")

    def _keep_asking(self) -> None:
        while not self.stop.is_set():
            stream = Stream(time.monotonic())
            self.streams.append(stream)
            try:
                for piece in self.visitor.stream(self.model, self.question):
                    stream.first = stream.first or time.monotonic()
                    stream.text += piece
                stream.ended = time.monotonic()
            except Exception as error:
                # Whatever it is, a stream must not end with it.
                self.errors.append(f"{type(error).__name__}: {error}")
                return


def base_step(visitor: Visitor) -> None:
    print("\n1. The base model answers.")
    base = visitor.call("GET", "/v1/models")["data"][0]["id"]
    for question, fact in FACTS.items():
        check(f"says {fact}", fact in visitor.ask(base, question))


def adapters_step(visitor: Visitor) -> None:
    print(f"\n2. Two adapters answer the same questions: {ADAPTER} and {OTHER}.")
    for question in shared_questions()[:2]:
        for name in (ADAPTER, OTHER):
            check("as PEFT answers", visitor.ask(name, question) == stored(name)[question])


def swap_step(visitor: Visitor) -> None:
    print(f"\n3. While {STREAMS} streams keep asking {ADAPTER}, a new version is pushed, tried and promoted.")
    question = shared_questions()[0]
    old, new = stored(ADAPTER)[question], stored(OTHER)[question]
    with Load(visitor, ADAPTER, question) as load:
        load.wait_until_under_way()
        version = push(visitor, ADAPTER, OTHER)
        check(f"pushed as {ADAPTER}@{version}", version == "v2")
        check("the new version can be tried", visitor.ask(f"{ADAPTER}@{version}", question) == new)
        check(f"{ADAPTER} is what it was", visitor.ask(ADAPTER, question) == old)
        load.wait_until_under_way()
        put_at = time.monotonic()
        promote(visitor, version, "v1")
        done_at = time.monotonic()
        first_at, answer = timed(visitor, ADAPTER, question)
        print(f"   Q ({ADAPTER}): {question}\n   A: {answer}")
        check(
            f"the next answer is the new version's: first token {1e3 * (first_at - put_at):.0f} ms after PUT",
            answer == new,
        )
        load.wait_until_under_way(since=done_at)
    report_load(load, put_at, done_at, old, new)


def report_load(load: Load, put_at: float, done_at: float, old: str, new: str) -> None:
    """Check every stream: begun before, it keeps its version; begun after, it has the new one; between, one of them."""
    check(f"{len(load.streams)} streams ran and none failed {load.errors or ''}".rstrip(), not load.errors)
    before = [stream for stream in load.streams if stream.first is not None and stream.first < put_at]
    spanning = [stream for stream in before if stream.ended is not None and stream.ended > done_at]
    after = [stream for stream in load.streams if stream.began > done_at]
    between = [stream for stream in load.streams if stream not in before and stream not in after]
    check(f"{len(spanning)} that were under way ended as they began", bool(spanning))
    check(f"{len(before)} begun before have the old answer", all(stream.text == old for stream in before))
    check(f"{len(after)} begun after have the new one", bool(after) and all(stream.text == new for stream in after))
    check("none has a mixture", all(stream.text in (old, new) for stream in between))


def rollback_step(visitor: Visitor) -> None:
    print("\n4. Rollback: production goes back to previous.")
    promote(visitor, "previous", "v2")
    for question in shared_questions()[:2]:
        check("byte for byte what it was", visitor.ask(ADAPTER, question) == stored(ADAPTER)[question])


def unknown_step(visitor: Visitor) -> None:
    print("\n5. A name that nobody has is an error, never the base model.")
    try:
        visitor.ask("nobody", "Who are you?")
    except openai.NotFoundError as error:
        check(f"404: {error.message}", "nobody" in error.message)
    else:
        check("404", False)


def push(visitor: Visitor, name: str, packaged: str) -> str:
    """Upload a packaged adapter's files as a version of another one."""
    place = find_spec("polyad.serve.example")
    if place is None or place.origin is None:
        raise Failed("polyad is not installed")
    folder = Path(place.origin).parent / "adapters" / packaged
    files = {"config": folder / "adapter_config.json", "weights": folder / "adapter_model.safetensors"}
    content = {part: (path.name, path.read_bytes()) for part, path in files.items()}
    pushed = visitor.call("POST", "/v1/adapters", data={"name": name}, files=content)
    return str(pushed["version"])


def promote(visitor: Visitor, version: str, current: str) -> None:
    """Point `production` at a version, if it is where we think it is."""
    body = {"version": version, "if_current": current}
    aliases = visitor.call("PUT", f"/v1/adapters/{ADAPTER}/aliases/production", json=body)["aliases"]
    print(f"   {ADAPTER}: {', '.join(f'{alias} {number}' for alias, number in aliases.items())}")


def timed(visitor: Visitor, model: str, question: str) -> tuple[float, str]:
    """When the first token of an answer came, and the whole answer."""
    pieces = visitor.stream(model, question)
    first = next(pieces)
    return time.monotonic(), first + "".join(pieces)


def main() -> int:
    """The exit code."""
    began = time.monotonic()
    print("polyad demo: a server with the example base model and adapters is started.", flush=True)
    try:
        with DemoServer(HERE.parent / ".state" / "base-models") as server:
            visitor = Visitor(server.wait_ready())
            for step in (base_step, adapters_step, swap_step, rollback_step, unknown_step):
                step(visitor)
            print("\n6. SIGTERM ends the server and everything it started.")
            check("exit code 0", server.stop() == 0)
            check("no process is left", server.is_gone())
    except (Failed, TimeoutError, openai.OpenAIError, httpx.HTTPError) as error:
        print(f"\nFAILED: {error}", flush=True)
        return 1
    print(f"\nEvery answer was what it should be: {time.monotonic() - began:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
