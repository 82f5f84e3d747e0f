"""`polyad chat`: one question, or a conversation."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import click

from polyad.serve.cli.client import Client, print_json, remote
from polyad.serve.cli.failure import Failure
from polyad.serve.cli.printable import without_controls

_PATH = "/v1/chat/completions"
_LEAVE = "/exit"


@dataclass
class Conversation:
    """Messages with one model. What failed or was broken off is not part of it."""

    client: Client
    model: str
    options: dict[str, Any]
    messages: list[dict[str, str]] = field(default_factory=list)
    cut: bool = False

    def body(self, question: str) -> dict[str, Any]:
        messages = [*self.messages, {"role": "user", "content": question}]
        return {"model": self.model, "messages": messages, **self.options}

    def ask(self, question: str) -> Iterator[str]:
        """The pieces of the answer, as they come. Raises Failure."""
        body = self.body(question)
        pieces: list[str] = []
        for event in self.client.stream(_PATH, {**body, "stream": True}):
            for choice in event.get("choices", ()):
                piece = choice["delta"].get("content") or ""
                self.cut = choice.get("finish_reason") == "length"
                pieces.append(piece)
                yield piece
        self.messages = [*body["messages"], {"role": "assistant", "content": "".join(pieces)}]


@click.command(short_help="Ask a model, once or in a conversation.")
@click.argument("model", required=False)
@click.argument("prompt", required=False)
@click.option("--max-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Longest answer.")
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0: always the same.")
@click.option("--system", help="System message to begin with.")
@remote
def chat(
    client: Client,
    as_json: bool,
    model: str | None,
    prompt: str | None,
    max_tokens: int,
    temperature: float,
    system: str | None,
) -> None:
    """Ask a model: the base model, or an adapter as NAME, NAME@ALIAS or NAME@VERSION.

    Without PROMPT it goes on until /exit or Ctrl-D; without MODEL it is the base model.

    \b
    Example:
      polyad chat support@canary "Where is my order?"
    """
    if as_json and prompt is None:
        raise click.UsageError("--json needs a PROMPT")
    options = {"max_tokens": max_tokens, "temperature": temperature}
    conversation = Conversation(client, model or _base_model(client), options)
    if system is not None:
        conversation.messages.append({"role": "system", "content": system})
    if as_json:
        print_json(client.call("POST", _PATH, json=conversation.body(prompt or "")))
    elif prompt is not None:
        _print_answer(conversation, prompt)
    else:
        _converse(conversation)


def _base_model(client: Client) -> str:
    listed = client.call("GET", "/v1/models")["data"]
    if not listed:
        raise Failure(f"{client.url} lists no models")
    return str(listed[0]["id"])


def _converse(conversation: Conversation) -> None:
    typing = sys.stdin.isatty()
    if typing:
        # Imported for its effect: input() then has editing and history.
        import readline  # noqa: F401

        click.echo(f"{conversation.model}: {_LEAVE} or Ctrl-D ends it, Ctrl-C ends an answer", err=True)
    while (question := _question("> " if typing else "")) is not None:
        try:
            _print_answer(conversation, question)
        except Failure as failure:
            failure.show()
            if not typing:
                raise SystemExit(failure.exit_code) from failure
        except KeyboardInterrupt:
            click.echo()


def _question(mark: str) -> str | None:
    """The next line that says something, None at the end."""
    while True:
        try:
            line = input(mark).strip()
        except (EOFError, KeyboardInterrupt):
            if mark:
                click.echo()
            return None
        if line == _LEAVE:
            return None
        if line:
            return line


def _print_answer(conversation: Conversation, question: str) -> None:
    for piece in conversation.ask(question):
        click.echo(without_controls(piece), nl=False)
    click.echo()
    if conversation.cut:
        limit = conversation.options["max_tokens"]
        click.echo(f"(cut at {limit} tokens: --max-tokens sets the limit)", err=True)
