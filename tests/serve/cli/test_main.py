import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click
import pytest

from polyad.serve.cli.main import polyad

HEAVY = ("torch", "vllm", "fastapi", "uvicorn", "transformers", "httpx", "pydantic", "rich")
SHOW = f"import sys; print(*(name for name in {HEAVY!r} if name in sys.modules))"


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield " ".join(("polyad", *path, name)), command
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


def test_every_command_has_an_example_of_itself() -> None:
    found = dict(commands(polyad))
    assert len(found) == 44
    for path, command in found.items():
        text = command.help or ""
        assert "Example:" in text, path
        assert path in text.split("Example:")[1], path


@pytest.mark.parametrize(
    ("code", "loaded"),
    [
        ("import polyad.serve.cli.main", ""),
        ("import polyad.serve.cli.adapter, polyad.serve.cli.alias, polyad.serve.cli.chat, polyad.serve.cli.models", ""),
        ("import polyad.serve.cli.composition", ""),
        ("import polyad.serve.cli.serve, polyad.serve.cli.config", "pydantic"),
        ("import polyad.serve.cli.launch", "pydantic"),
    ],
)
def test_heavy_modules_are_not_imported(code: str, loaded: str) -> None:
    child = subprocess.run([sys.executable, "-c", f"{code}\n{SHOW}"], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == loaded


def test_module_and_console_script_are_the_same() -> None:
    script = [str(Path(sys.executable).with_name("polyad"))]
    module = [sys.executable, "-m", "polyad.serve.cli.main"]
    shown = [subprocess.run([*command, "--version"], capture_output=True, text=True) for command in (script, module)]
    assert [child.stdout for child in shown] == [f"polyad {version('polyad')}\n"] * 2


def test_unknown_command_is_a_usage_error() -> None:
    child = subprocess.run([sys.executable, "-m", "polyad.serve.cli.main", "serv"], capture_output=True, text=True)
    assert child.returncode == 2
    assert "No such command 'serv'" in child.stderr
