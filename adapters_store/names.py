"""The names that people give to adapters, aliases and tenants, and how a version is referred to."""

import re

from polyad.adapters_store.errors import InvalidName

NAME_RULE = "[a-z0-9][a-z0-9._-]{0,62}, without '..'"
MODEL_RULE = NAME_RULE + "; or public/ and such a name"
ALIAS_RULE = NAME_RULE + ", and unlike a version (v1, v2, ...) or a digest"
VERSION_RULE = "a version number such as v3, an alias, or at least 12 hexadecimal digits of a digest"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
_NUMBER = re.compile(r"v([1-9][0-9]{0,8})", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{12,64}", re.ASCII)

PRODUCTION = "production"
PREVIOUS = "previous"

# The tenant whose names all others may use; the only one there is until keys name another.
PUBLIC = "public"
_PUBLIC_PREFIX = f"{PUBLIC}/"


def is_name(value: str) -> bool:
    """Whether the value can be the name of an adapter, a composition, an alias or a tenant."""
    return _NAME.fullmatch(value) is not None and ".." not in value


def is_reference(value: str) -> bool:
    """Whether the value can stand for a version: a number, an alias or the beginning of a digest."""
    return is_name(value) or is_digest_prefix(value)


def check_name(field: str, value: str) -> str:
    """Return `value` if it is the valid name of an adapter, a composition or a tenant; raise InvalidName if not."""
    if not is_name(value):
        raise InvalidName(field, value, NAME_RULE)
    return value


def is_model_name(value: str) -> bool:
    """Whether a request may name an adapter or a composition so: a name, or `public/` and a name."""
    return is_name(value.removeprefix(_PUBLIC_PREFIX))


def check_model_name(field: str, value: str) -> str:
    """Return `value` if `is_model_name`; raise InvalidName, naming `field`, if not."""
    if not is_model_name(value):
        raise InvalidName(field, value, MODEL_RULE)
    return value


def public_name(value: str) -> str | None:
    """What stands behind `public/`; None for a name without it."""
    return value.removeprefix(_PUBLIC_PREFIX) if value.startswith(_PUBLIC_PREFIX) else None


def check_alias(field: str, value: str) -> str:
    """Return `value` if it is a valid alias; raise InvalidName, naming `field`, if not."""
    if not is_name(value) or _NUMBER.fullmatch(value) or _DIGEST.fullmatch(value):
        raise InvalidName(field, value, ALIAS_RULE)
    return value


def check_reference(field: str, value: str) -> str:
    """Return `value` if it can stand for a version; raise InvalidName, naming `field`, if not."""
    if not is_reference(value):
        raise InvalidName(field, value, VERSION_RULE)
    return value


def version_number(reference: str) -> int | None:
    """The number in a reference such as `v3`, or None if it is no version number."""
    match = _NUMBER.fullmatch(reference)
    return int(match[1]) if match else None


def is_digest_prefix(reference: str) -> bool:
    """Whether the reference can be the beginning of a digest (12 to 64 lower-case hexadecimal digits)."""
    return _DIGEST.fullmatch(reference) is not None
