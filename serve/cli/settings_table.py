"""What a server would be started with, for a person or a program to read."""

import json

import click

from polyad.serve.cli.flags import environment_name
from polyad.serve.cli.table import print_table
from polyad.serve.config import Settings


def print_settings(settings: Settings, as_json: bool = False) -> None:
    """Print name, value, environment variable and explanation of each setting; secrets are masked."""
    rows = [
        (name, "-" if getattr(settings, name) in (None, ()) else value, environment_name(name), explanation)
        for name, value, explanation in settings.table()
    ]
    if not as_json:
        print_table(("setting", "value", "environment", "explanation"), rows, wrap=True)
        return
    values = settings.model_dump(mode="json")
    entries = [
        {"name": name, "value": values[name], "environment": environment, "explanation": explanation}
        for name, _, environment, explanation in rows
    ]
    click.echo(json.dumps(entries, indent=2))
