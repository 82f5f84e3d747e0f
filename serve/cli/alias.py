"""`polyad alias`: promotion and its opposite."""

from typing import Any

import click

from polyad.serve.cli.client import Client, print_json, remote
from polyad.serve.cli.reference import ABSENT, adapter_name, adapter_path, alias_name, current_version, version_name

_IF_CURRENT = f"Only if the alias points there now; {ABSENT}: only if it does not exist yet."


@click.group(short_help="Promote versions, and roll back.")
def alias() -> None:
    """Point aliases at versions: moving `production` is the hot swap.

    \b
    Example:
      polyad alias set support production v2
    """


@alias.command(name="set")
@click.argument("name", callback=adapter_name)
@click.argument("alias", callback=alias_name)
@click.argument("version", callback=version_name)
@click.option(
    "--if-current",
    callback=current_version,
    metavar="vN|none",
    help="Only if the alias points there now, or does not exist.",
)
@remote
def set_alias(client: Client, as_json: bool, name: str, alias: str, version: str, if_current: str | None) -> None:
    """Point an alias at a version: a number, another alias (such as `previous`), or the beginning of a digest.

    \b
    Example:
      polyad alias set support production v2 --if-current v1
    """
    body: dict[str, str | None] = {"version": version}
    if if_current is not None:
        body["if_current"] = None if if_current == ABSENT else if_current
    _print_aliases(client.call("PUT", _path(name, alias), json=body), as_json)


@alias.command(name="rm")
@click.argument("name", callback=adapter_name)
@click.argument("alias", callback=alias_name)
@remote
def remove_alias(client: Client, as_json: bool, name: str, alias: str) -> None:
    """Delete an alias; the version that it pointed at stays.

    \b
    Example:
      polyad alias rm support canary
    """
    _print_aliases(client.call("DELETE", _path(name, alias)), as_json)


def _path(name: str, alias: str) -> str:
    return f"{adapter_path(name)}/aliases/{alias}"


def _print_aliases(adapter: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(adapter)
        return
    aliases = ", ".join(f"{name} {version}" for name, version in adapter["aliases"].items())
    click.echo(f"{adapter['name']}: {aliases or 'no aliases'}")
