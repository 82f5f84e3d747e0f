"""The server's settings as command-line flags: one for each field, with the field's own explanation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import click
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from polyad.adapters_store.errors import ConfigError
from polyad.serve.cli.failure import BadConfiguration
from polyad.serve.config import Settings

Command = TypeVar("Command", bound=Callable[..., Any])

_METAVARS = {int: "INTEGER", float: "NUMBER", Path: "PATH", tuple: "LIST"}


def settings_flags(command: Command) -> Command:
    """Add a flag for every setting; the command gets its text by the field's name, None where it was not given."""
    for name, field in reversed(Settings.model_fields.items()):
        command = _flag(name, field)(command)
    return command


def environment_name(name: str) -> str:
    """The environment variable that sets a field."""
    return f"{Settings.model_config['env_prefix']}{name}".upper()


def settings_of(flags: dict[str, Any]) -> Settings:
    """The settings that the flags and the environment make. Raises BadConfiguration."""
    try:
        return Settings.load(**flags)
    except ConfigError as error:
        raise BadConfiguration(str(error)) from error


def _flag(name: str, field: FieldInfo) -> Callable[[Command], Command]:
    option = f"--{name.replace('_', '-')}"
    if field.annotation is bool:
        option = f"{option}/--no-{name.replace('_', '-')}"
        return click.option(option, name, default=None, help=_help(name, field))
    # The text goes on as it is: Settings alone says what a value may be.
    return click.option(option, name, metavar=_metavar(field), help=_help(name, field))


def _help(name: str, field: FieldInfo) -> str:
    notes = [f"env: {environment_name(name)}"]
    if field.default not in (None, ()):
        notes.append(f"default: {'off' if field.default is False else field.default}")
    if _is_secret(field):
        notes.append("other users of the machine can read flags: prefer the variable")
    return f"{field.description}  [{'; '.join(notes)}]"


def _metavar(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return "|".join(get_args(field.annotation))
    kinds = (get_origin(field.annotation), field.annotation, *get_args(field.annotation))
    return next((metavar for kind, metavar in _METAVARS.items() if kind in kinds), "TEXT")


def _is_secret(field: FieldInfo) -> bool:
    return SecretStr in (field.annotation, *get_args(field.annotation))
