"""`polyad tenant`: how much others may ask."""

from typing import Any

import click

from polyad.serve.cli.client import Client, print_json, remote
from polyad.serve.cli.table import print_table

_LIMITS = {
    "weight": (float, "Part of the engine that it gets where tenants share it, beside the others' weights."),
    "max_adapters": (int, "Adapters that it may have."),
    "max_bytes": (int, "Bytes of all their versions."),
    "requests_per_minute": (int, "Requests for inference that may begin in a minute."),
    "max_running": (int, "Requests for inference that may run at once."),
}


@click.group(short_help="Show and set the limits of tenants.")
def tenant() -> None:
    """See what a tenant has, and set what it may have and use.

    \b
    Example:
      polyad tenant set acme --weight 2 --requests-per-minute 600
    """


@tenant.command()
@click.argument("name")
@remote
def show(client: Client, as_json: bool, name: str) -> None:
    """Show a tenant's limits, and what it has.

    \b
    Example:
      polyad tenant show acme
    """
    _print(client.call("GET", f"/v1/tenants/{name}"), as_json)


def _set(client: Client, as_json: bool, /, name: str, **limits: Any) -> None:
    """Change the limits that are given; `none` lifts one.

    \b
    Example:
      polyad tenant set acme --max-adapters 100 --max-running none
    """
    path = f"/v1/tenants/{name}"
    current = client.call("GET", path)
    body = {limit: current[limit] for limit in _LIMITS}
    for limit, text in limits.items():
        if text is not None:
            body[limit] = None if text == "none" else _number(limit, text)
    _print(client.call("PUT", path, json=body), as_json)


def _number(limit: str, text: str) -> int | float:
    try:
        number: int | float = _LIMITS[limit][0](text)
    except ValueError as error:
        raise click.BadParameter(f"{limit}: got {text!r}, allowed: a number, or none") from error
    return number


def _command() -> click.Command:
    command: Any = remote(_set)
    for limit, (_, explanation) in reversed(_LIMITS.items()):
        command = click.option(f"--{limit.replace('_', '-')}", limit, metavar="NUMBER|none", help=explanation)(command)
    return tenant.command(name="set")(click.argument("name")(command))


set_limits = _command()


def _print(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    rows = [(name, "-" if value is None else str(value)) for name, value in found.items() if name != "object"]
    print_table(("field", "value"), rows)
