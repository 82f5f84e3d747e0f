"""`polyad key`: who may ask."""

from typing import Any

import click

from polyad.serve.cli.client import Client, print_json, remote
from polyad.serve.cli.reference import tenant_name
from polyad.serve.cli.table import print_table, time_text

_PATH = "/v1/keys"


@click.group(short_help="Make, list and revoke API keys.")
def key() -> None:
    """Let others ask, each for a tenant and in a role: user, publisher or admin.

    \b
    Example:
      polyad key create --tenant acme --role publisher --label "build server"
    """


@key.command()
@click.option("--tenant", callback=tenant_name, help="Whom the key acts for. Default: the tenant of your own key.")
@click.option("--role", type=click.Choice(("user", "publisher", "admin")), default="user", show_default=True)
@click.option("--label", default="", help="What you will know it by.")
@remote
def create(client: Client, as_json: bool, tenant: str | None, role: str, label: str) -> None:
    """Make a key. It is shown this once: the server keeps only its digest.

    The first key of a server has to be an admin's of the tenant public; from then on nobody is let in without one.

    \b
    Example:
      polyad key create --role admin
    """
    made = client.call("POST", _PATH, json={"tenant": tenant, "role": role, "label": label})
    if as_json:
        print_json(made)
        return
    click.echo(f"{made['role']} of {made['tenant']}, key {made['key']}; it will not be shown again:", err=True)
    click.echo(made["secret"])


@key.command()
@click.option("--tenant", callback=tenant_name, help="Whose keys. Default: those of the tenant of your own key.")
@remote
def ls(client: Client, as_json: bool, tenant: str | None) -> None:
    """List a tenant's keys, without what makes them keys.

    \b
    Example:
      polyad key ls --tenant acme
    """
    keys = list(client.pages(_PATH, **({} if tenant is None else {"tenant": tenant})))
    if as_json:
        print_json({"object": "list", "data": keys, "after": None})
        return
    print_table(("key", "tenant", "role", "created", "label"), [_row(entry) for entry in keys])


@key.command()
@click.argument("name", metavar="KEY")
@remote
def revoke(client: Client, as_json: bool, name: str) -> None:
    """Refuse a key from now on, on every server. KEY is what `polyad key ls` shows.

    \b
    Example:
      polyad key revoke 0f3a9c11d2e4
    """
    revoked = client.call("DELETE", f"{_PATH}/{name}")
    if as_json:
        print_json(revoked)
    else:
        click.echo(f"revoked {name}")


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    return (entry["key"], entry["tenant"], entry["role"], time_text(entry["created"]), entry["label"] or "-")
