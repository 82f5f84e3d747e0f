"""`polyad adapter`: import, push, list, show, delete, protect and collect."""

from http import HTTPStatus
from pathlib import Path
from typing import Any

import click

from polyad.serve.cli.adapter_import import import_
from polyad.serve.cli.client import Client, print_json, remote
from polyad.serve.cli.reference import (
    adapter_name,
    adapter_path,
    adapters_path,
    alias_name,
    reference,
    version_path,
    versioned_reference,
)
from polyad.serve.cli.table import print_table, size_text, time_text
from polyad.serve.cli.upload import WEIGHTS, adapter_files, opened

_SHOWN_DIGEST = 12


@click.group(short_help="Push, list, show and delete adapters.")
def adapter() -> None:
    """Push adapters to a server, and see what it has.

    \b
    Example:
      polyad adapter push support ./support-lora
    """


adapter.add_command(import_)


@adapter.command()
@click.argument("name", callback=adapter_name)
@click.argument("source", metavar="FOLDER|URL")
@click.option("--alias", callback=alias_name, help="Alias to point at the new version.")
@click.option(
    "--initial",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="The adapter as it was before training, for PiSSA, OLoRA and CorDA. Default: FOLDER/initial, if it is there.",
)
@remote
def push(client: Client, as_json: bool, name: str, source: str, alias: str | None, initial: Path | None) -> None:
    """Push a version: a folder that PEFT wrote, or a URL that the server may read (hf://, s3://).

    The first version of an adapter becomes `production`. The same bytes again are the same version.

    \b
    Example:
      polyad adapter push support ./support-lora --alias canary
    """
    path, bare = adapters_path(name), name.removeprefix("public/")
    fields = {"name": bare, **({"alias": alias} if alias is not None else {})}
    if "://" in source:
        if initial is not None:
            raise click.UsageError(f"--initial goes with a folder; {source} may hold initial/{WEIGHTS} itself")
        response = client.send("POST", path, json={**fields, "source": source})
    else:
        with opened(adapter_files(Path(source), initial)) as files:
            response = client.send("POST", path, data=fields, files=files)
    version = client.json(response)
    if as_json:
        print_json(version)
        return
    news = "is new" if response.status_code == HTTPStatus.CREATED else "was there already, with the same bytes"
    click.echo(f"{version['adapter']}@{version['version']} {news}: {_summary(version)}")


@adapter.command()
@remote
def ls(client: Client, as_json: bool) -> None:
    """List all adapters.

    \b
    Example:
      polyad adapter ls
    """
    adapters = list(client.pages("/v1/adapters"))
    if as_json:
        print_json({"object": "list", "data": adapters, "after": None})
        return
    rows = [
        (
            entry["name"],
            str(entry["versions"]),
            entry["latest"] or "-",
            entry["kind"] or "-",
            _aliases(entry),
            time_text(entry["created"]),
        )
        for entry in adapters
    ]
    print_table(("adapter", "versions", "latest", "kind", "aliases", "created"), rows)


@adapter.command()
@click.argument("target", callback=reference, metavar="NAME[@VERSION]")
@remote
def show(client: Client, as_json: bool, target: tuple[str, str | None]) -> None:
    """Show an adapter with its aliases and versions, or one version.

    \b
    Example:
      polyad adapter show support@canary
    """
    name, version = target
    if version is None:
        _show_adapter(client, as_json, name)
        return
    found = client.call("GET", version_path(name, version))
    if as_json:
        print_json(found)
    else:
        print_table(("field", "value"), _fields(found), wrap=True)


@adapter.command()
@click.argument("target", callback=reference, metavar="NAME[@VERSION]")
@click.option("--yes", is_flag=True, help="Do not ask.")
@remote
def rm(client: Client, as_json: bool, target: tuple[str, str | None], yes: bool) -> None:
    """Delete an adapter with all its versions, or one version that no alias needs.

    \b
    Example:
      polyad adapter rm support@v1 --yes
    """
    name, version = target
    what = f"{name} with all its versions" if version is None else f"{name}@{version}"
    if not yes:
        click.confirm(f"Delete {what}? New requests for it will be refused.", abort=True, err=True)
    deleted = client.call("DELETE", adapter_path(name) if version is None else version_path(name, version))
    if as_json:
        print_json(deleted)
    else:
        click.echo(f"deleted {what}")


@adapter.command()
@click.argument("target", callback=versioned_reference, metavar="NAME@VERSION")
@remote
def pin(client: Client, as_json: bool, target: tuple[str, str]) -> None:
    """Protect a version from collection.

    \b
    Example:
      polyad adapter pin support@v1
    """
    _print_version(client.call("PUT", f"{version_path(*target)}/pin"), as_json)


@adapter.command()
@click.argument("target", callback=versioned_reference, metavar="NAME@VERSION")
@remote
def unpin(client: Client, as_json: bool, target: tuple[str, str]) -> None:
    """End a version's protection from collection.

    \b
    Example:
      polyad adapter unpin support@v1
    """
    _print_version(client.call("DELETE", f"{version_path(*target)}/pin"), as_json)


@adapter.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@remote
def collect(client: Client, as_json: bool, dry_run: bool) -> None:
    """Remove the versions that no alias, pin or running request needs.

    Of an admin of the tenant public, also the bytes that no version of any tenant refers to.

    \b
    Example:
      polyad adapter collect --dry-run
    """
    collected = client.call("POST", "/v1/collections", json={"dry_run": dry_run})
    if as_json:
        print_json(collected)
        return
    for version in collected["versions"]:
        click.echo(f"{version['adapter']}@{version['version']}: {_summary(version)}")
    verb = "would be removed" if dry_run else "removed"
    click.echo(f"{verb}: versions {len(collected['versions'])}, files {len(collected['blobs'])}")


def _show_adapter(client: Client, as_json: bool, name: str) -> None:
    found = client.call("GET", adapter_path(name))
    versions = list(client.pages(f"{adapter_path(name)}/versions"))
    if as_json:
        print_json({"adapter": found, "versions": versions})
        return
    click.echo(f"{found['name']}, created {time_text(found['created'])}; {_aliases(found)}")
    columns = ("version", "aliases", "pinned", "kind", "rank", "size", "created", "digest", "source")
    print_table(columns, [_row(version) for version in versions])


def _row(version: dict[str, Any]) -> tuple[str, ...]:
    return (
        version["version"],
        ", ".join(version["aliases"]) or "-",
        "yes" if version["pinned"] else "-",
        version["kind"],
        str(version["rank"]),
        size_text(version["size"]),
        time_text(version["created"]),
        version["digest"][:_SHOWN_DIGEST],
        version["source"],
    )


def _fields(version: dict[str, Any]) -> list[tuple[str, str]]:
    shown = {
        **version,
        "size": f"{version['size']} bytes",
        "created": time_text(version["created"]),
        "targets": ", ".join(version["targets"]),
        "aliases": ", ".join(version["aliases"]) or "-",
        "pinned": "yes" if version["pinned"] else "no",
    }
    return [(name, str(value)) for name, value in shown.items() if name != "object"]


def _print_version(version: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(version)
    else:
        state = "pinned" if version["pinned"] else "not pinned"
        click.echo(f"{version['adapter']}@{version['version']} is {state}")


def _aliases(entry: dict[str, Any]) -> str:
    return ", ".join(f"{alias} {version}" for alias, version in entry["aliases"].items()) or "no aliases"


def _summary(version: dict[str, Any]) -> str:
    parts = [version["kind"], f"rank {version['rank']}", size_text(version["size"]), version["digest"][:_SHOWN_DIGEST]]
    return ", ".join(parts + version["aliases"])
