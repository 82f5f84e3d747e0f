"""How each adapter learns: in Redis, and in memory for those who ask at every request."""

import asyncio
import logging

from polyad.adapters_store.ending import end
from polyad.adapters_store.errors import RegistryUnavailable
from polyad.adapters_store.feedback.keys import Keys
from polyad.adapters_store.feedback.records import Policy
from polyad.adapters_store.feedback.scripting import Scripting

logger = logging.getLogger(__name__)

OFF = Policy()
_POLL_S = 1.0


class Policies:
    """`get` answers from memory, at most about a second behind other processes, and goes on while Redis is away."""

    def __init__(self, url: str, namespace: str = "polyad", poll_s: float = _POLL_S) -> None:
        self._redis = Scripting(url)
        self._keys = Keys(namespace)
        self._poll_s = poll_s
        self._revision: str | None = None
        self._policies: dict[tuple[str, str], Policy] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read all policies and follow their changes. Raises RegistryUnavailable."""
        await self.read()
        self._task = asyncio.create_task(self._follow(), name="polyad-policies")

    async def close(self) -> None:
        if self._task is not None:
            await end(self._task)
            self._task = None
        await self._redis.close()

    def get(self, tenant: str, adapter: str) -> Policy:
        """The adapter's policy: off where none was set."""
        return self._policies.get((tenant, adapter), OFF)

    def all(self) -> dict[tuple[str, str], Policy]:
        """Every policy that was set, by tenant and adapter."""
        return dict(self._policies)

    def adapters(self, tenant: str) -> list[str]:
        """The adapters of a tenant that have a policy."""
        return [adapter for owner, adapter in self._policies if owner == tenant]

    async def set(self, tenant: str, adapter: str, policy: Policy) -> None:
        """Raises RegistryUnavailable."""
        client = self._redis.client
        text = policy.model_dump_json()
        await self._redis.ask(client.hset(self._keys.policies, f"{tenant}/{adapter}", text))
        await self._redis.ask(client.incr(self._keys.policies_revision))
        self._policies[tenant, adapter] = policy

    async def drop(self, tenant: str, adapter: str) -> None:
        """Nothing is set for the adapter any more. Raises RegistryUnavailable."""
        client = self._redis.client
        await self._redis.ask(client.hdel(self._keys.policies, f"{tenant}/{adapter}"))
        await self._redis.ask(client.incr(self._keys.policies_revision))
        self._policies.pop((tenant, adapter), None)

    async def read(self) -> None:
        """Read all policies if any was set since. Raises RegistryUnavailable."""
        revision = await self._redis.ask(self._redis.client.get(self._keys.policies_revision)) or "0"
        if revision == self._revision:
            return
        stored = await self._redis.ask(self._redis.client.hgetall(self._keys.policies))
        policies = {}
        for name, text in stored.items():
            tenant, _, adapter = name.partition("/")
            policies[tenant, adapter] = Policy.model_validate_json(text)
        self._policies, self._revision = policies, revision

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await self.read()
            except RegistryUnavailable as error:
                logger.debug("policies: %s", error)
