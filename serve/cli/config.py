"""`polyad config`: the settings that `polyad serve` would run with."""

from typing import Any

import click

from polyad.serve.cli.flags import settings_flags, settings_of
from polyad.serve.cli.settings_table import print_settings


@click.command(short_help="Show every setting of the server.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@settings_flags
def config(as_json: bool, **flags: Any) -> None:
    """Show every setting of the server, its value here, and its environment variable.

    \b
    Example:
      POLYAD_SLOTS=16 polyad config --state-dir /var/lib/polyad
    """
    print_settings(settings_of(flags), as_json)
