"""The names that commands take, checked before anything is sent: callbacks for click's parameters."""

import click

from polyad.adapters_store.errors import InvalidName
from polyad.adapters_store.names import (
    check_alias,
    check_model_name,
    check_name,
    check_reference,
    public_name,
    version_number,
)

ABSENT = "none"


def adapter_name(_: click.Context, __: click.Parameter, value: str) -> str:
    """The name of an adapter, or of a composition: one's own, or `public/` and a name."""
    try:
        return check_model_name("name", value)
    except InvalidName as error:
        raise click.BadParameter(str(error)) from error


def own_adapter_name(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """The name of an adapter of one's own."""
    if public_name(value) is not None:
        raise click.BadParameter(
            f"{value!r}: an adapter of `public` learns by its own admin's word, under its plain name"
        )
    return adapter_name(context, parameter, value)


def alias_name(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """The name of an alias, or None where an option was not given."""
    try:
        return None if value is None else check_alias("alias", value)
    except InvalidName as error:
        raise click.BadParameter(str(error)) from error


def version_name(_: click.Context, __: click.Parameter, value: str) -> str:
    """A version number, an alias, or the beginning of a digest."""
    try:
        return check_reference("version", value)
    except InvalidName as error:
        raise click.BadParameter(str(error)) from error


def current_version(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """What an alias must point at now: a version number, ABSENT for nothing, or None where it was not given."""
    if value in (None, ABSENT) or version_number(value) is not None:
        return value
    raise click.BadParameter(f"got {value!r}, allowed: a version number such as v1, or {ABSENT}")


def reference(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, str | None]:
    """NAME or NAME@VERSION, as the pair of both."""
    name, at, version = value.partition("@")
    checked = version_name(context, parameter, version) if at else None
    return adapter_name(context, parameter, name), checked


def versioned_reference(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, str | None]:
    """NAME@VERSION, as the pair of both."""
    if "@" not in value:
        raise click.BadParameter(f"got {value!r}, allowed: NAME@VERSION, such as support@v2")
    return reference(context, parameter, value)


def adapter_path(name: str) -> str:
    """The URL path of an adapter."""
    return f"{_folder('adapters', name)}/{_bare(name)}"


def adapters_path(name: str) -> str:
    """The URL path of the adapters that a name is, or would be, among."""
    return _folder("adapters", name)


def composition_path(name: str) -> str:
    """The URL path of a saved composition."""
    return f"{_folder('compositions', name)}/{_bare(name)}"


def version_path(name: str, version: str) -> str:
    """The URL path of a version."""
    return f"{adapter_path(name)}/versions/{version}"


def tenant_name(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """The name of a tenant, or None where an option was not given."""
    try:
        return None if value is None else check_name("tenant", value)
    except InvalidName as error:
        raise click.BadParameter(str(error)) from error


def _folder(kind: str, name: str) -> str:
    return f"/v1/{kind}" if public_name(name) is None else f"/v1/public/{kind}"


def _bare(name: str) -> str:
    return public_name(name) or name
