from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from polyad.serve.cli.flags import environment_name, settings_flags, settings_of
from polyad.serve.config import Settings

# A text of each type that every field of the type takes, and another one.
TEXTS: dict[Any, tuple[str, str]] = {
    int: ("16", "32"),
    float: ("1.5", "2.5"),
    str: ("localhost", "127.0.0.1"),
    Path: ("/x", "/y"),
    SecretStr: ("redis://user:password@host", "redis://host"),
    tuple: ("s3://a/b/, gs://c/", "hf://d"),
    Literal: ("reference", "cpu"),
}
VALUES = {
    "16": 16,
    "1.5": 1.5,
    "localhost": "localhost",
    "/x": Path("/x"),
    "reference": "reference",
    "json": "json",
    "redis://user:password@host": SecretStr("redis://user:password@host"),
    "s3://a/b/, gs://c/": ("s3://a/b/", "gs://c/"),
}
FIELDS = {name: field for name, field in Settings.model_fields.items() if field.annotation is not bool}
SWITCHES = [name for name, field in Settings.model_fields.items() if field.annotation is bool]


def texts(annotation: Any) -> tuple[str, str]:
    kinds = (get_origin(annotation), annotation, *get_args(annotation))
    return next(TEXTS[kind] for kind in kinds if kind in TEXTS)


def made(*arguments: str, **environment: str) -> Settings:
    """The settings that a command with the flags gets."""
    received: list[Settings] = []

    @click.command()
    @settings_flags
    def command(**flags: Any) -> None:
        received.append(settings_of(flags))

    result = CliRunner(env=environment).invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return received[0]


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_has_a_flag_that_beats_its_variable(name: str) -> None:
    text, other = ("json", "text") if name == "log_format" else texts(FIELDS[name].annotation)
    flag, variable = f"--{name.replace('_', '-')}", f"POLYAD_{name.upper()}"
    assert environment_name(name) == variable
    assert getattr(made(flag, text), name) == VALUES[text]
    assert getattr(made(**{variable: text}), name) == VALUES[text]
    assert getattr(made(flag, text, **{variable: other}), name) == VALUES[text]


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_goes_both_ways(name: str) -> None:
    flag, variable = name.replace("_", "-"), f"POLYAD_{name.upper()}"
    assert getattr(made(f"--{flag}", **{variable: "false"}), name) is True
    assert getattr(made(f"--no-{flag}", **{variable: "true"}), name) is False
    assert getattr(made(**{variable: "true"}), name) is True


def test_nothing_given_is_the_default() -> None:
    assert made() == Settings()


@pytest.mark.parametrize("command", ["serve", "config"])
def test_help_explains_every_setting(command: str) -> None:
    from polyad.serve.cli.main import polyad

    shown = " ".join(CliRunner().invoke(polyad, [command, "--help"], terminal_width=200).stdout.split())
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in shown
        assert " ".join(str(field.description).split()) in shown
        assert f"[env: {environment_name(name)}" in shown


@pytest.mark.parametrize("arguments", [("--kernels", "9"), ("--port", "x"), ("--grpc-port", "70000")])
def test_wrong_value_is_one_line(arguments: tuple[str, str]) -> None:
    from polyad.serve.cli.main import polyad

    result = CliRunner(env={"POLYAD_API_KEY": "hidden-key"}).invoke(polyad, ["config", *arguments])
    assert result.exit_code == 2
    assert result.stderr.startswith("polyad: ") and result.stderr.count("\n") == 1
    assert arguments[0].strip("-").replace("-", "_") in result.stderr and arguments[1] in result.stderr
    assert "hidden-key" not in result.output
