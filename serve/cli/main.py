"""The command `polyad`."""

from importlib import import_module
from typing import Any

import click

_COMMANDS = (
    "serve",
    "config",
    "adapter",
    "alias",
    "composition",
    "merge",
    "statistics",
    "feedback",
    "policy",
    "run",
    "learn",
    "key",
    "tenant",
    "models",
    "chat",
    "registry",
)


class Commands(click.Group):
    """Each command is a module of this package that bears its name, imported only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: Any = getattr(import_module(f"polyad.serve.cli.{cmd_name}"), cmd_name)
        return command if isinstance(command, click.Command) else None


@click.group(cls=Commands)
@click.version_option(package_name="polyad", message="polyad %(version)s")
def polyad() -> None:
    """One base model, many hot-swapped adapters.

    `polyad serve MODEL` starts a server; the other commands speak to one that runs.

    \b
    Example:
      polyad serve --example
      polyad adapter push support ./support-lora
      polyad chat support "Where is my order?"
    """


def main() -> None:
    """The console script."""
    polyad(prog_name="polyad")


if __name__ == "__main__":
    main()
