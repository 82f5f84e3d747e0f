"""`polyad composition`: expressions that are given a name."""

from typing import Any

import click

from polyad.serve.cli.client import Client, print_json, remote
from polyad.serve.cli.reference import adapter_name, composition_path
from polyad.serve.cli.table import print_table, time_text

_PATH = "/v1/compositions"


@click.group(short_help="Save compositions by a name.")
def composition() -> None:
    """Let a name stand for a composition; requests then use it as they use an adapter's.

    \b
    Example:
      polyad composition set helpful "support*0.7 + tone*0.3"
    """


@composition.command(name="set")
@click.argument("name", callback=adapter_name)
@click.argument("expression")
@click.option("--if-current", metavar="EXPRESSION", help="Only if the name stands for this now.")
@click.option("--if-absent", is_flag=True, help="Only if the name stands for nothing yet.")
@remote
def set_composition(
    client: Client, as_json: bool, name: str, expression: str, if_current: str | None, if_absent: bool
) -> None:
    """Save an expression. Aliases in it stay aliases: the name follows them.

    \b
    Example:
      polyad composition set helpful "support*0.8 + tone*0.2" --if-current "support*0.7 + tone*0.3"
    """
    if if_absent and if_current is not None:
        raise click.UsageError("--if-current and --if-absent exclude each other")
    body: dict[str, str | None] = {"expression": expression}
    if if_absent or if_current is not None:
        body["if_current"] = if_current
    _print_composition(client.call("PUT", composition_path(name), json=body), as_json)


@composition.command()
@remote
def ls(client: Client, as_json: bool) -> None:
    """List all saved compositions.

    \b
    Example:
      polyad composition ls
    """
    compositions = list(client.pages(_PATH))
    if as_json:
        print_json({"object": "list", "data": compositions, "after": None})
        return
    rows = [(entry["name"], time_text(entry["created"]), entry["expression"]) for entry in compositions]
    print_table(("composition", "created", "expression"), rows)


@composition.command()
@click.argument("name", callback=adapter_name)
@remote
def show(client: Client, as_json: bool, name: str) -> None:
    """Show what a name stands for.

    \b
    Example:
      polyad composition show helpful
    """
    _print_composition(client.call("GET", composition_path(name)), as_json)


@composition.command()
@click.argument("name", callback=adapter_name)
@remote
def rm(client: Client, as_json: bool, name: str) -> None:
    """Forget a name; the adapters in it stay.

    \b
    Example:
      polyad composition rm helpful
    """
    deleted = client.call("DELETE", composition_path(name))
    if as_json:
        print_json(deleted)
    else:
        click.echo(f"deleted {name}")


def _print_composition(composition: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(composition)
    else:
        click.echo(f"{composition['name']} = {composition['expression']}")
