"""Who asks: from a key to a caller, who acts for one tenant in one role. Nothing here waits for Redis."""

import hmac
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256

from pydantic import SecretStr

from polyad.adapters_store.errors import ConfigError, Forbidden, Unauthenticated
from polyad.adapters_store.names import PUBLIC
from polyad.adapters_store.registry import Snapshot
from polyad.serve.config import LOOPBACK, Settings

KEY_PREFIX = "polyad_"


class Role(IntEnum):
    """What a key may do; each role includes those below it."""

    USER = 1
    PUBLISHER = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a request is for. The admins of the public tenant run the server: they alone write what all may read."""

    tenant: str = PUBLIC
    role: Role = Role.USER

    @property
    def operator(self) -> bool:
        return self.tenant == PUBLIC and self.role == Role.ADMIN

    def check_writes(self, tenant: str) -> None:
        """Raise Forbidden unless the caller may change what the tenant has."""
        if tenant == PUBLIC and not self.operator:
            raise Forbidden(f"authorization: what is public is changed by admins of the tenant {PUBLIC}")
        if self.role < Role.PUBLISHER:
            raise Forbidden("authorization: changes need a publisher's key, or an admin's")

    def check_admin(self) -> None:
        """Raise Forbidden unless the caller is an admin of its tenant."""
        if self.role < Role.ADMIN:
            raise Forbidden("authorization: this needs an admin's key")


# The engine's handlers are vLLM's and take no caller of ours: they are told by the context that a request runs in.
_NOBODY = Caller()
current_caller: ContextVar[Caller] = ContextVar("current_caller", default=_NOBODY)


class Access:
    """Knows the keys of the registry, and those of the settings, which belong to the public tenant.

    Without any key, whoever reaches a server that listens on loopback is its admin; with `admin_key` alone, a user.
    That ends with the first key that the registry has, until the server is started again: keys that are gone, as from
    a Redis that came back empty, open nothing.
    """

    def __init__(self, settings: Settings, snapshot: Snapshot) -> None:
        self._api_key = settings.api_key
        self._admin_key = settings.admin_key
        self._metrics_key = settings.metrics_key
        self._loopback = settings.host in LOOPBACK
        self._snapshot = snapshot

    @property
    def open(self) -> bool:
        """Whether no key is or was there, so that whoever comes is an admin, if the server listens on loopback."""
        return self._api_key is None and self._admin_key is None and not self._snapshot.keyed

    def caller(self, authorization: bytes) -> Caller:
        """Whom an Authorization header stands for, empty if there was none. Raises Unauthenticated."""
        token = _bearer(authorization)
        found = self._with_key(token)
        if found is not None:
            return found
        # A key that was revoked is no way to be nobody in particular.
        if self._loopback and self._api_key is None and not self._snapshot.keyed and not _looks_like_ours(token):
            return Caller(PUBLIC, Role.ADMIN if self.open else Role.USER)
        raise Unauthenticated("authorization: a valid key is needed, as `Authorization: Bearer KEY`")

    def reader_of_metrics(self, authorization: bytes) -> Caller:
        """The same for whoever asks what is of all tenants. Raises Unauthenticated, Forbidden."""
        if _same(_bearer(authorization), self._metrics_key):
            return Caller()
        found = self.caller(authorization)
        if not found.operator:
            raise Forbidden(f"authorization: this is for admins of the tenant {PUBLIC}, and for the metrics_key")
        return found

    def check_address(self, host: str) -> None:
        """Raise ConfigError for an address that others reach, while there is no key that keeps them out."""
        if self._loopback or (self._api_key is not None and self._admin_key is not None):
            return
        if not any(key.role == "admin" for key in self._snapshot.keys if key.tenant == PUBLIC):
            raise ConfigError(
                f"host {host!r} is reachable by others: set api_key and admin_key, or make an admin's key first "
                f"(`polyad key create --role admin`) while the server listens on one of {', '.join(sorted(LOOPBACK))}"
            )

    def _with_key(self, token: bytes) -> Caller | None:
        if _same(token, self._admin_key):
            return Caller(PUBLIC, Role.ADMIN)
        if _same(token, self._api_key):
            return Caller(PUBLIC, Role.USER)
        key = self._snapshot.keys.with_digest(sha256(token).hexdigest())
        return Caller(key.tenant, Role[key.role.upper()]) if key is not None else None


def _bearer(authorization: bytes) -> bytes:
    """The key that an Authorization header holds; empty if it holds none."""
    scheme, _, token = authorization.partition(b" ")
    return token if scheme.lower() == b"bearer" else b""


def _same(token: bytes, key: SecretStr | None) -> bool:
    return key is not None and hmac.compare_digest(token, key.get_secret_value().encode())


def _looks_like_ours(token: bytes) -> bool:
    return token.startswith(KEY_PREFIX.encode())
