"""Pushing, promoting and deleting adapters."""

import asyncio
import copy
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from polyad.adapters_store.admission import Limits, admit
from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.blobs import BlobStore
from polyad.adapters_store.errors import (
    Conflict,
    InvalidInput,
    InvalidName,
    SourceUnavailable,
    UnknownVersion,
)
from polyad.adapters_store.names import VERSION_RULE, check_alias, check_name, version_number
from polyad.adapters_store.pace import Pace
from polyad.adapters_store.registry import UNSET, Adapter, Registry, Unset, Version, VersionDraft
from polyad.adapters_store.source import AdapterFiles, SourcePolicy, fetch_source, folder_source
from polyad.serve.compose import Plan
from polyad.serve.service.background import Background
from polyad.serve.service.scratch_folder import scratch_folder

Warm = Callable[[Plan], Awaitable[None]]
Forget = Callable[[str, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Pushed:
    """The version that the pushed bytes are, and whether it came into being just now."""

    version: Version
    created: bool


class AdapterService:
    """One tenant's adapters. `warm` brings a version into the engine's host memory, or raises why it cannot.

    `forget` ends how an adapter learns that is deleted; it is told the tenant and the name.
    """

    def __init__(
        self,
        registry: Registry,
        blobs: BlobStore,
        base: BaseModel,
        limits: Limits,
        policy: SourcePolicy,
        scratch: Path,
        warm: Warm,
        *,
        tenant: str,
        reserved: Collection[str] = (),
        adapter_root: Path | None = None,
        source_timeout_s: float = 600,
        pace: Pace | None = None,
        forget: Forget | None = None,
    ) -> None:
        self._registry = registry
        self._blobs = blobs
        self._base = base
        self._limits = limits
        self._policy = policy
        self._warm = warm
        self._tenant = tenant
        self._reserved = frozenset(reserved)
        self._adapter_root = adapter_root
        self._source_timeout_s = source_timeout_s
        self._background = Background()
        self.scratch = scratch
        self.pace = pace or Pace()
        self._forget = forget

    def of(self, tenant: str) -> "AdapterService":
        """The same for another tenant's adapters."""
        other = copy.copy(self)
        other._tenant = tenant
        return other

    async def push(self, name: str, files: AdapterFiles, aliases: Sequence[str] = ()) -> Pushed:
        """Admit the bytes and register them as a version; then point the aliases at it.

        The first version of an adapter becomes `production`. The same bytes again are the same version.
        Raises InvalidAdapter, TooLarge, InvalidName, LimitReached, RegistryUnavailable, BlobsUnavailable, LoadFailed.
        """
        self._check_new_name(name)
        for alias in aliases:
            check_alias("alias", alias)
        self._registry.check_room(self._tenant, name)
        draft = await self._admit(files)
        return await self.publish(name, draft, aliases)

    async def publish(self, name: str, draft: VersionDraft, aliases: Sequence[str] = ()) -> Pushed:
        """Register bytes that are stored already, then point the aliases at them, once they are in host memory.

        Raises Conflict, LimitReached, RegistryUnavailable, LoadFailed.
        """
        version, created = await self._registry.add_version(self._tenant, name, draft)
        if aliases:
            _check_not_quarantined(version)
            await self._warm(Plan.single(version))
            for alias in aliases:
                await self._registry.set_alias(self._tenant, name, alias, version.number)
        return Pushed(version, created)

    async def push_source(self, name: str, source: str, aliases: Sequence[str] = ()) -> Pushed:
        """Push from hf:// or an allowed URL. Raises InvalidSource, UnknownSource, SourceUnavailable, and as `push`."""
        self._check_new_name(name)
        async with scratch_folder(self.scratch) as folder:
            try:
                async with asyncio.timeout(self._source_timeout_s):
                    files = await fetch_source(source, folder, self._policy)
            except TimeoutError as error:
                raise SourceUnavailable(f"source: {source} did not arrive in {self._source_timeout_s:g} s") from error
            return await self.push(name, files, aliases)

    async def push_folder(self, name: str, folder: str, aliases: Sequence[str] = ()) -> Pushed:
        """Push from a folder under `adapter_root`; raises Forbidden outside it, and as `push`."""
        if self._adapter_root is None:
            raise InvalidInput("lora_path", folder, "nothing: no adapter_root is configured")
        return await self.push(name, await asyncio.to_thread(folder_source, self._adapter_root, folder), aliases)

    def adapter(self, name: str) -> Adapter:
        """Raises UnknownAdapter."""
        return self._registry.snapshot.adapter(self._tenant, name)

    def page(self, after: str | None, limit: int) -> list[Adapter]:
        """Adapters by name, behind the cursor."""
        return self._registry.snapshot.page(self._tenant, after, limit)

    def version(self, name: str, reference: str) -> Version:
        """The version that a number (v3), an alias or a digest prefix means now. Raises NotFound."""
        return self._registry.snapshot.resolve(self._tenant, name, reference)

    async def set_alias(self, name: str, alias: str, reference: str, if_current: str | None | Unset = UNSET) -> Adapter:
        """Point an alias at a version, which is in host memory before any request can meet it.

        Raises NotFound, AliasMoved, RegistryUnavailable, LoadFailed; the alias is then where it was.
        """
        check_alias("alias", alias)
        version = self.version(name, reference)
        _check_not_quarantined(version)
        expected = if_current if isinstance(if_current, Unset) or if_current is None else _number(if_current)
        await self._warm(Plan.single(version))
        return await self._registry.set_alias(self._tenant, name, alias, version.number, expected)

    async def delete_alias(self, name: str, alias: str) -> Adapter:
        """Raises UnknownAdapter, UnknownAlias, RegistryUnavailable."""
        return await self._registry.delete_alias(self._tenant, name, alias)

    async def set_pinned(self, name: str, reference: str, pinned: bool) -> Adapter:
        """Protect a version from collection, or end that. Raises NotFound, RegistryUnavailable."""
        return await self._registry.set_pinned(self._tenant, name, self.version(name, reference).number, pinned)

    async def delete_version(self, name: str, reference: str) -> Adapter:
        """Raises NotFound, VersionInUse, RegistryUnavailable."""
        number = version_number(reference)
        if number is None:
            raise UnknownVersion("version", reference, "is no version number; versions are deleted by number, as v3")
        return await self._registry.delete_version(self._tenant, name, number)

    async def delete(self, name: str) -> None:
        """Revoke an adapter: new requests are refused at once, running ones end on their versions.

        How it learns and what it was to learn from goes with it. Raises UnknownAdapter, RegistryUnavailable.
        """
        known = self._registry.snapshot.find_adapter(self._tenant, name) is not None
        if known and self._registry.live and self._forget is not None:
            # First: what breaks off between leaves an adapter that does not learn, not a policy without adapter.
            await self._forget(self._tenant, name)
        await self._registry.delete_adapter(self._tenant, name)

    async def _admit(self, files: AdapterFiles) -> VersionDraft:
        async with scratch_folder(self.scratch) as folder:
            canonical = folder / "delta.safetensors"
            admitted = await self._background.run(
                admit, files.config, files.weights, self._base, self._limits, canonical, files.initial, self.pace
            )
            await self._blobs.put(canonical, admitted.digest, just_written=True)
        return VersionDraft(
            digest=admitted.digest,
            size=admitted.size,
            base=self._base.fingerprint,
            rank=admitted.rank,
            targets=admitted.targets,
            source=files.source,
            kind=admitted.kind,
        )

    def _check_new_name(self, name: str) -> None:
        check_name("name", name)
        if name in self._reserved:
            raise InvalidName("name", name, "any name but the base model's")


def _check_not_quarantined(version: Version) -> None:
    if version.quarantined:
        raise Conflict("version", f"{version.adapter}@{version.label} was turned down by the gate of {version.run}")


def _number(reference: str) -> int:
    number = version_number(reference)
    if number is None:
        raise InvalidInput("if_current", reference, f"null, or a version number; not {VERSION_RULE}")
    return number
