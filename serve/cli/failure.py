"""How every command says that it failed: one line on stderr."""

from typing import IO, Any

import click

from polyad.serve.cli.printable import one_line


class Failure(click.ClickException):
    """The command could not do what was asked."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"polyad: {self.message}", file=file, err=True)


class BadConfiguration(Failure):
    """The server cannot be started like this."""

    exit_code = 2
