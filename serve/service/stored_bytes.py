"""Which bytes are needed, and removing others.

What is about to refer to bytes puts them first, or refreshes them: so they are young until it does, and neither old age
alone nor a look at what refers to them, taken a while ago, is enough to remove them. Both are looked at again just
before. What is left is the time between that look and the removal, one call of the blob store, in which the put would
have to come, of bytes that lay there unneeded for so long.
"""

from collections.abc import Awaitable, Callable, Sequence

from polyad.adapters_store.blobs import BlobStore
from polyad.adapters_store.errors import Conflict, RegistryUnavailable
from polyad.adapters_store.registry import Registry

# Removed behind one look at what is needed, which costs an answer of Redis.
_AT_ONCE = 32


async def needed_digests(registry: Registry) -> set[str]:
    """What any version of any tenant refers to, and any result of a merge. Raises RegistryUnavailable."""
    if not registry.live:
        raise RegistryUnavailable("registry: Redis is away; which bytes are needed is unknown, so none is removed")
    merged = {entry.digest for entry in await registry.merges.entries()}
    return registry.snapshot.digests() | merged


async def check_sole_owner(registry: Registry, blobs: BlobStore) -> None:
    """Raise Conflict if another registry has bytes in the blob root; mark the root as this one's.

    Such a registry may be one that Redis lost and whose backup may come back, or that of another Redis or namespace. An
    operator who knows that it is gone for good takes the root over by removing its mark, as the message says.
    """
    origin = registry.snapshot.origin
    others = ", ".join(sorted(await blobs.claim(origin)))
    if others:
        raise Conflict(
            "blobs",
            f"this blob root belongs to another registry (born {others}) than this one (born {origin}); which bytes it "
            "needs is unknown here, so none are removed. If it is gone for good, remove its mark, the file "
            f"registries/{others.partition(',')[0]} of the root; else give each registry a root of its own",
        )


async def remove_unneeded(
    blobs: BlobStore, digests: Sequence[str], look: Callable[[], Awaitable[set[str]]], min_age_s: float
) -> list[str]:
    """Remove those that are not needed as one may `look` now, and were put so long ago; which they were."""
    removed = []
    for start in range(0, len(digests), _AT_ONCE):
        needed = await look()
        for digest in digests[start : start + _AT_ONCE]:
            if digest not in needed and await blobs.delete(digest, min_age_s):
                removed.append(digest)
    return removed
