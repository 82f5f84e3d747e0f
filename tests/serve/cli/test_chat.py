import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

Run = Callable[..., Result]
Speak = Callable[..., list[bytes]]


def bodies(fake: Any) -> list[dict[str, Any]]:
    return [body for _, path, body in fake.requests if path == "/v1/chat/completions"]


def test_answer_of_an_adapter(fake: Any, run: Run) -> None:
    fake.service.add("robot")
    result = run("chat", "robot", "Do you eat?", "--system", "Be short.", "--max-tokens", "7", "--temperature", "0.5")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Hello you\n", "")
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Do you eat?"}]
    assert bodies(fake) == [
        {"model": "robot", "messages": messages, "max_tokens": 7, "temperature": 0.5, "stream": True}
    ]


def test_without_a_model_the_base_model_answers(fake: Any, run: Run) -> None:
    result = run("chat", input="Hello?\n")
    assert result.stdout == "Hello you\n"
    assert [(body["model"], body["temperature"]) for body in bodies(fake)] == [("the-base", 0)]


def test_conversation_remembers_until_exit(fake: Any, run: Run) -> None:
    result = run("chat", "the-base", input="One?\n\n  \nTwo?\n/exit\nThree?\n")
    assert result.stdout == "Hello you\nHello you\n"
    first = {"role": "user", "content": "One?"}
    answer = {"role": "assistant", "content": "Hello you"}
    second = {"role": "user", "content": "Two?"}
    assert [body["messages"] for body in bodies(fake)] == [[first], [first, answer, second]]


def test_pieces_are_shown_as_they_come(fake: Any, speak: Speak) -> None:
    fake.chat.pieces = speak("First", " second")
    fake.chat.pieces = [b"".join(fake.chat.pieces[:2]), b"".join(fake.chat.pieces[2:])]
    fake.chat.gate.clear()
    command = [sys.executable, "-m", "polyad.serve.cli.main", "chat", "the-base", "Hello?", "--url", fake.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        # The server sends the rest only after this was read: a client that waits for the end would hang here.
        assert os.read(child.stdout.fileno(), 100) == b"First"
        fake.chat.gate.set()
        assert child.stdout.read() == b" second\n"
    assert child.returncode == 0


def test_cut_answer_is_marked(fake: Any, run: Run, speak: Speak) -> None:
    fake.chat.pieces = speak("Half", finish="length")
    result = run("chat", "the-base", "Hello?", "--max-tokens", "1")
    assert result.stdout == "Half\n"
    assert "cut at 1 tokens" in result.stderr


def test_control_characters_do_not_reach_the_terminal(fake: Any, run: Run, speak: Speak) -> None:
    fake.chat.pieces = speak("\x1b]0;title\x07a\r\x9bb\u2028\n\tc")
    assert run("chat", "the-base", "Hello?").stdout == "]0;titleab\u2028\n\tc\n"


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ([], "polyad: the answer broke off: the server ended the stream early\n"),
        (
            [b'data: {"error": {"message": "the engine was lost", "code": 503}}\n\n', b"data: [DONE]\n\n"],
            "polyad: the answer ended with an error: the engine was lost\n",
        ),
    ],
)
def test_broken_answers_fail(fake: Any, run: Run, speak: Speak, last: list[bytes], message: str) -> None:
    fake.chat.pieces = [*speak("Half")[:-1], *last]
    result = run("chat", "the-base", "Hello?")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "Half", message)


def test_unknown_model_is_named(run: Run) -> None:
    result = run("chat", "nobody", "Hello?")
    assert result.exit_code == 1
    assert result.stderr == "polyad: The model `nobody` does not exist. (404 Not Found)\n"


def test_failed_line_of_a_script_ends_it(fake: Any, run: Run) -> None:
    result = run("chat", "nobody", input="One?\nTwo?\n")
    assert result.exit_code == 1
    assert len(bodies(fake)) == 1


def test_json_is_the_whole_answer(fake: Any, run: Run) -> None:
    result = run("chat", "the-base", "Hello?", "--json")
    assert json.loads(result.stdout)["choices"][0]["message"]["content"] == "whole"
    assert "stream" not in bodies(fake)[0]
    assert run("chat", "the-base", "--json").exit_code == 2
