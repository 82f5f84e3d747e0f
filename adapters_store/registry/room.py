"""Whether a tenant may have one more version, by the limits that are set for it."""

from polyad.adapters_store.errors import LimitReached
from polyad.adapters_store.registry.snapshot import Snapshot

# Only a deletion makes room.
_RETRY_S = 60


def check_room(snapshot: Snapshot, tenant: str, name: str, digest: str | None = None, size: int = 0) -> None:
    """Raise LimitReached unless the adapter may have a version with this digest; None if there is none to tell yet.

    By the snapshot: changes that are made at the same time may pass the limit together.
    """
    limits, (adapters, used) = snapshot.limits(tenant), snapshot.usage(tenant)
    known = snapshot.find_adapter(tenant, name)
    if known is None and limits.max_adapters is not None and adapters >= limits.max_adapters:
        raise LimitReached("max_adapters", adapters + 1, f"at most {limits.max_adapters} adapters", _RETRY_S)
    digests = {version.digest for version in known.versions.values()} if known else set()
    added = 0 if digest is None or digest in digests else size
    if limits.max_bytes is not None and added and used + added > limits.max_bytes:
        raise LimitReached("max_bytes", used + added, f"at most {limits.max_bytes} bytes of versions", _RETRY_S)
