import ast
import json
import shlex
import sys
import textwrap
from pathlib import Path

import pytest

from polyad.serve.cli.example import base_options, what_to_try

OURS = [
    "--enforce-eager",
    *("--max-model-len", "2048"),
    "--enable-auto-tool-choice",
    *("--tool-call-parser", "hermes"),
    *("--served-model-name", "small"),
]


@pytest.mark.parametrize(
    ("given", "dropped"),
    [
        ([], []),
        (["--max-model-len", "512"], ["--max-model-len", "2048"]),
        (["--max_model_len=512"], ["--max-model-len", "2048"]),
        (["--no-enforce-eager"], ["--enforce-eager"]),
        (["--no-enable-auto-tool-choice", "--dtype", "half"], ["--enable-auto-tool-choice"]),
        (["--served-model-name", "mine"], ["--served-model-name", "small"]),
    ],
)
def test_given_options_win(given: list[str], dropped: list[str]) -> None:
    start = OURS.index(dropped[0]) if dropped else 0
    expected = OURS[:start] + OURS[start + len(dropped) :]
    assert list(base_options(given, "small")) == given + expected


@pytest.mark.parametrize("with_key", [False, True])
def test_what_to_try_can_be_tried(with_key: bool) -> None:
    text = what_to_try("http://127.0.0.1:9000", with_key)
    command, snippet = text.replace("\\\n", "").split("\n\n")[1:3]
    curl = shlex.split(command)
    assert curl[1] == "http://127.0.0.1:9000/v1/chat/completions"
    assert json.loads(curl[curl.index("-d") + 1])["messages"] == [{"role": "user", "content": "Do you eat?"}]
    assert ("Authorization: Bearer $POLYAD_KEY" in curl) == with_key
    assert len(ast.parse(textwrap.dedent(snippet)).body) == (5 if with_key else 4)
    assert ('os.environ["POLYAD_KEY"]' in snippet) == with_key
    assert "chat --url http://127.0.0.1:9000 robot" in text


def test_default_address_needs_no_url() -> None:
    assert "--url" not in what_to_try("http://127.0.0.1:8000", with_key=False)


def test_command_is_how_it_was_called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "polyad"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setenv("PATH", "/usr/bin")
    assert "\n  bin/polyad adapter ls\n" in what_to_try("http://127.0.0.1:8000", with_key=False)
    monkeypatch.setenv("PATH", str(program.parent))
    assert "\n  polyad adapter ls\n" in what_to_try("http://127.0.0.1:8000", with_key=False)
