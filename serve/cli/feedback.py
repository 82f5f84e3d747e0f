"""`polyad feedback`: a verdict on a response."""

from typing import Any

import click

from polyad.serve.cli.client import Client, print_json, remote


@click.command(short_help="Give feedback on a response.")
@click.argument("response")
@click.option("--up", "thumb", flag_value="up", help="It is good.")
@click.option("--down", "thumb", flag_value="down", help="It is bad.")
@click.option("--score", type=click.IntRange(1, 5), help="1 to 5.")
@click.option("--correction", help="What it should have said.")
@click.option("--preferred", type=click.IntRange(min=0), help="Index of the best of its answers.")
@click.option("--answer", type=click.IntRange(min=0), help="Index of the answer that this is on.")
@click.option("--comment", help="Free text.")
@click.option("--label", "labels", multiple=True, help="May be given several times.")
@click.option("--user", help="The end user who gives it.")
@click.option("--id", help="The same id again is the same feedback.")
@remote
def feedback(client: Client, as_json: bool, /, response: str, labels: tuple[str, ...], **fields: Any) -> None:
    """Say what you think of a response, by its id: adapters whose policy says so learn from it.

    \b
    Example:
      polyad feedback chatcmpl-9f86d081884c7d65 --down --correction "It comes tomorrow."
    """
    body = {name: value for name, value in fields.items() if value is not None}
    given = client.call("POST", "/v1/feedback", json={"response": response, **body, "labels": list(labels)})
    if as_json:
        print_json(given)
    else:
        click.echo(f"feedback {given['id']} on {given['adapter']}@{given['version']}")
