"""`polyad run`: trainings of adapters."""

from typing import Any

import click

from polyad.serve.cli.client import Client, print_json, remote
from polyad.serve.cli.reference import adapter_name
from polyad.serve.cli.table import print_table, time_text

_PATH = "/v1/runs"


@click.group(short_help="Begin, list, show and end runs.")
def run() -> None:
    """Trainings of adapters from feedback; `polyad learn` does the work.

    \b
    Example:
      polyad run begin support
    """


@run.command()
@click.argument("name", callback=adapter_name)
@remote
def begin(client: Client, as_json: bool, name: str) -> None:
    """Train an adapter now, whatever its policy says of numbers and ages.

    \b
    Example:
      polyad run begin support
    """
    _print(client.call("POST", _PATH, json={"adapter": name}), as_json)


@run.command()
@remote
def ls(client: Client, as_json: bool) -> None:
    """List runs, newest first.

    \b
    Example:
      polyad run ls
    """
    runs = list(client.pages(_PATH))
    if as_json:
        print_json({"object": "list", "data": runs, "after": None})
        return
    rows = [
        (
            one["id"],
            one["adapter"],
            one["state"],
            f"{one['step']}/{one['steps']}",
            one["parent"] or "-",
            one["version"] or "-",
            time_text(one["created"]),
            one["reason"],
        )
        for one in runs
    ]
    print_table(("run", "adapter", "state", "step", "parent", "version", "created", "reason"), rows)


@run.command()
@click.argument("id")
@remote
def show(client: Client, as_json: bool, id: str) -> None:
    """Show a run, and what its gate saw.

    \b
    Example:
      polyad run show run-0f3a0f3a0f3a0f3a
    """
    _print(client.call("GET", f"{_PATH}/{id}"), as_json)


@run.command()
@click.argument("id")
@remote
def cancel(client: Client, as_json: bool, id: str) -> None:
    """End a run; its feedback stays for the next one.

    \b
    Example:
      polyad run cancel run-0f3a0f3a0f3a0f3a
    """
    _print(client.call("POST", f"{_PATH}/{id}/cancel"), as_json)


@run.command()
@click.argument("id")
@remote
def approve(client: Client, as_json: bool, id: str) -> None:
    """Publish what passed the gate, where the policy asks a person.

    \b
    Example:
      polyad run approve run-0f3a0f3a0f3a0f3a
    """
    _print(client.call("POST", f"{_PATH}/{id}/approve"), as_json)


@run.command()
@click.argument("id")
@remote
def reject(client: Client, as_json: bool, id: str) -> None:
    """Turn down what passed the gate, where the policy asks a person.

    \b
    Example:
      polyad run reject run-0f3a0f3a0f3a0f3a
    """
    _print(client.call("POST", f"{_PATH}/{id}/reject"), as_json)


def _print(shown: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(shown)
        return
    steps = f"step {shown['step']} of {shown['steps']}"
    click.echo(f"{shown['id']} of {shown['adapter']}: {shown['state']}, {steps}. {shown['reason']}".rstrip())
    for finding in shown["evidence"]:
        mark = {True: "passed", False: "FAILED", None: "seen"}[finding["passed"]]
        click.echo(f"  {mark:<6}  {finding['check']}: {finding['summary']}")
