"""`polyad registry`: the registry in Redis, without a server."""

import asyncio
import json
from typing import Any

import click

from polyad.adapters_store.errors import PolyadError
from polyad.serve.cli.failure import Failure
from polyad.serve.cli.flags import settings_flags, settings_of
from polyad.serve.config import Settings


@click.group(short_help="Prepare the registry for this release.")
def registry() -> None:
    """Work on the registry itself, by its redis_url, while no server of this release runs.

    \b
    Example:
      polyad registry migrate --redis-url redis://127.0.0.1:6379/0
    """


@registry.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@settings_flags
def migrate(as_json: bool, **flags: Any) -> None:
    """Set the registry up, or bring its schema to what this release writes. Safe to repeat.

    Servers of an older release then serve on from memory and cannot change adapters any more.

    \b
    Example:
      polyad registry migrate
    """
    settings = settings_of(flags)
    if settings.redis_url is None:
        raise click.UsageError("redis_url is missing: the embedded Redis needs no migration")
    try:
        state = asyncio.run(_migrated(settings.redis_url.get_secret_value(), settings))
    except PolyadError as error:
        raise Failure(str(error)) from error
    if as_json:
        click.echo(json.dumps(state))
    else:
        click.echo("registry {registry}: schema {schema}, revision {revision}, {adapters} adapters".format(**state))


async def _migrated(url: str, settings: Settings) -> dict[str, object]:
    # Only here: no other command needs Redis.
    from polyad.adapters_store.registry import Registry, masked

    found = Registry(url, settings.registry_namespace)
    # Reading it is what brings the schema up.
    await found.start()
    try:
        snapshot = found.snapshot
        return {
            "registry": masked(url),
            "schema": found.schema,
            "revision": snapshot.revision,
            "adapters": snapshot.count,
        }
    finally:
        await found.close()
