"""The servers on one registry: each says every few seconds that it lives, and what it holds."""

import secrets
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from pydantic import TypeAdapter, ValidationError

from polyad.adapters_store.errors import RegistryUnavailable
from polyad.adapters_store.masking import masked
from polyad.adapters_store.registry.connection import close, connect
from polyad.adapters_store.registry.records import Record
from polyad.adapters_store.registry.store import REDIS_ERRORS

_SCRIPTS = files("polyad.adapters_store.registry") / "scripts" / "replicas"


class Held(Record):
    """A version in a server's memory: `host` if it is there, `loading` if it is on its way."""

    tenant: str
    adapter: str
    number: int
    digest: str
    tier: str
    requests: int


class Replica(Record):
    """One server. `revision` is how far it has followed the registry, `held` is most recently used first."""

    id: str
    name: str
    release: str
    base: str
    revision: int
    status: str
    held: tuple[Held, ...]


class Sighting(Record):
    """A server, and the seconds since it was last heard of, by Redis's clock."""

    replica: Replica
    age_s: float


_REPLICA = TypeAdapter(Replica)


class Replicas:
    """Reads and writes the list. Servers that are silent for longer than `expiry_s` are none any more.

    Only Redis's clock counts, so those of the servers may differ.
    """

    def __init__(self, url: str, namespace: str, expiry_s: float) -> None:
        self._client: Any = connect(url)
        self._address = masked(url)
        self._key = f"{{{namespace}}}:replicas"
        self._expiry_s = expiry_s
        self._scripts = {name: (_SCRIPTS / f"{name}.lua").read_text(encoding="utf-8") for name in ("beat", "list")}

    @staticmethod
    def new_id() -> str:
        """A name that no other server has."""
        return secrets.token_hex(8)

    async def beat(self, replica: Replica) -> None:
        """Say that a server lives. Raises RegistryUnavailable."""
        await self._run("beat", replica.id, replica.model_dump_json())

    async def leave(self, replica_id: str) -> None:
        """Say that a server is gone. Raises RegistryUnavailable."""
        await self._run("beat", replica_id, "")

    async def living(self) -> list[Sighting]:
        """The servers heard of within `expiry_s`, by name. Raises RegistryUnavailable."""
        found = await self._run("list", str(self._expiry_s))
        sightings = [_sighting(text, age) for text, age in zip(found[::2], found[1::2], strict=True)]
        return sorted((one for one in sightings if one is not None), key=lambda one: (one.replica.name, one.replica.id))

    async def close(self) -> None:
        await close(self._client)

    async def _run(self, script: str, *arguments: str) -> Sequence[str]:
        try:
            answer: Sequence[str] = await self._client.eval(self._scripts[script], 1, self._key, *arguments)
        except REDIS_ERRORS as error:
            raise RegistryUnavailable(f"registry: no answer from {self._address} ({type(error).__name__})") from error
        return answer


def _sighting(text: str, age: str) -> Sighting | None:
    try:
        return Sighting(replica=_REPLICA.validate_json(text), age_s=float(age))
    except ValidationError:
        return None  # of a release whose form this one cannot read
