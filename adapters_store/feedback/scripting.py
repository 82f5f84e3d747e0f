"""A Redis client whose every call has a time limit and one error, and whose scripts lie beside it."""

import asyncio
from collections.abc import Awaitable, Sequence
from importlib.resources import files
from typing import Any

from redis.exceptions import RedisClusterException, RedisError

from polyad.adapters_store.errors import RegistryUnavailable
from polyad.adapters_store.masking import masked
from polyad.adapters_store.registry.connection import Client, close, connect, drop_idle

_SCRIPTS = files("polyad.adapters_store.feedback") / "scripts"
_TIMEOUT_S = 5.0


class Scripting:
    """Every method raises RegistryUnavailable when Redis does not answer; whether a write happened is then unknown."""

    def __init__(self, url: str, timeout_s: float = _TIMEOUT_S) -> None:
        self.address = masked(url)
        self.client: Client = connect(url)
        self._timeout_s = timeout_s
        names = [entry.name.removesuffix(".lua") for entry in _SCRIPTS.iterdir() if entry.name.endswith(".lua")]
        self._scripts = {name: (_SCRIPTS / f"{name}.lua").read_text(encoding="utf-8") for name in names}

    async def ask(self, command: Awaitable[Any]) -> Any:
        """The answer to one command."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await command
        except (RedisError, RedisClusterException, OSError) as error:
            # A connection that a timeout broke off may hold the rest of an answer.
            await drop_idle(self.client)
            raise RegistryUnavailable(
                f"feedback: no answer from {self.address} ({type(error).__name__}: {error})"
            ) from error

    async def run(self, script: str, keys: Sequence[str], *arguments: Any) -> Any:
        """The answer of one script."""
        return await self.ask(self.client.eval(self._scripts[script], len(keys), *keys, *arguments))

    async def close(self) -> None:
        await close(self.client)
