"""`polyad models`: what a chat may name."""

import click

from polyad.serve.cli.client import Client, print_json, remote
from polyad.serve.cli.table import print_table, time_text


@click.command(short_help="List the base model and the adapters.")
@remote
def models(client: Client, as_json: bool) -> None:
    """List the models that this key may use: the base model first, then the adapters.

    \b
    Example:
      polyad models
    """
    answer = client.call("GET", "/v1/models")
    if as_json:
        print_json(answer)
        return
    rows = [(entry["id"], entry.get("parent") or "-", time_text(entry["created"])) for entry in answer["data"]]
    print_table(("model", "base model", "created"), rows)
