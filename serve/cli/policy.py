"""`polyad policy`: how adapters learn."""

import json
from typing import Any

import click

from polyad.serve.cli.client import Client, print_json, remote
from polyad.serve.cli.reference import adapter_path, own_adapter_name
from polyad.serve.cli.table import print_table


@click.group(short_help="Say how adapters learn from feedback.")
def policy() -> None:
    """Say how an adapter learns from feedback: automatically, after a person agrees, or not.

    \b
    Example:
      polyad policy set support automatic --min-events 100
    """


@policy.command(name="set")
@click.argument("name", callback=own_adapter_name)
@click.argument("mode", type=click.Choice(["automatic", "ask", "off"]))
@click.option("--keep-s", type=int, help="How long interactions are kept, in seconds.")
@click.option("--min-events", type=int, help="So many events begin a run.")
@click.option("--max-age-s", type=float, help="An event of this age begins a run.")
@click.option("--schedule", help="Runs begin then alone: minute hour day month weekday, as cron has it, in UTC.")
@click.option("--canary-share", type=click.FloatRange(0, 1), help="Of requests, for a new version.")
@click.option("--canary-events", type=int, help="Verdicts that end the canary.")
@click.option("--canary-user-cap", type=int, help="Verdicts of one user that count.")
@click.option("--canary-s", type=float, help="Longest time of the canary.")
@click.option("--settings", help="JSON: of data, training and gate.")
@remote
def set_policy(client: Client, as_json: bool, /, name: str, mode: str, settings: str | None, **fields: Any) -> None:
    """Set the policy; what is not given gets its default.

    \b
    Example:
      polyad policy set support automatic --settings '{"train": {"learning_rate": 0.001}}'
    """
    body = {"mode": mode, **{key: value for key, value in fields.items() if value is not None}}
    if settings is not None:
        try:
            body["settings"] = json.loads(settings)
        except ValueError as error:
            raise click.BadParameter(f"no JSON: {error}", param_hint="--settings") from error
    _print(client.call("PUT", f"{adapter_path(name)}/policy", json=body), as_json)


@policy.command()
@click.argument("name", callback=own_adapter_name)
@remote
def show(client: Client, as_json: bool, name: str) -> None:
    """Show the policy, what is queued, and what could not be used.

    \b
    Example:
      polyad policy show support
    """
    _print(client.call("GET", f"{adapter_path(name)}/policy"), as_json)


def _print(shown: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(shown)
        return
    rows = {**shown, "dead": f"{len(shown['dead'])} events", "settings": json.dumps(shown["settings"])}
    rows["scores"] = ", ".join(f"{v}: {one['up']} up {one['down']} down" for v, one in shown["scores"].items()) or "-"
    print_table(("field", "value"), [(key, str(value)) for key, value in rows.items() if key != "object"], wrap=True)
