"""Tables on stdout."""

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime

from polyad.serve.cli.printable import one_line

# Where no terminal bounds the width, every row is one line for the program that reads it.
_UNBOUNDED = 10_000


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], wrap: bool = False) -> None:
    """Print rows under their columns, as wide as the terminal; `wrap` lets the last column go on in the next line."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for column in columns[:-1]:
        table.add_column(column, overflow="fold")
    table.add_column(columns[-1], overflow="fold", no_wrap=not wrap)
    for row in rows:
        table.add_row(*map(one_line, row))
    width = None if sys.stdout.isatty() else _UNBOUNDED
    Console(width=width, markup=False, highlight=False, emoji=False).print(table)


def size_text(size: int) -> str:
    """Bytes for a person."""
    from rich.filesize import decimal

    return decimal(size)


def time_text(seconds: float) -> str:
    """Unix seconds as local time."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")
