"""The registry of adapters, versions, aliases, saved compositions, keys and limits: in Redis, and in memory."""

from polyad.adapters_store.masking import masked
from polyad.adapters_store.registry.embedded import EmbeddedRedis
from polyad.adapters_store.registry.events import Change, Event, Reloaded
from polyad.adapters_store.registry.merge_ledger import MergeLedger
from polyad.adapters_store.registry.records import (
    Adapter,
    Composition,
    Key,
    Limits,
    MergedVersion,
    MergeEntry,
    RoleName,
    Tenant,
    Version,
    VersionDraft,
)
from polyad.adapters_store.registry.registry import UNSET, Registry, Unset
from polyad.adapters_store.registry.replicas import Held, Replica, Replicas, Sighting
from polyad.adapters_store.registry.snapshot import Snapshot
from polyad.adapters_store.registry.view import View

__all__ = [
    "Registry",
    "Snapshot",
    "Adapter",
    "Version",
    "VersionDraft",
    "Composition",
    "Key",
    "Limits",
    "RoleName",
    "Tenant",
    "View",
    "MergedVersion",
    "MergeEntry",
    "MergeLedger",
    "Event",
    "Change",
    "Reloaded",
    "UNSET",
    "Unset",
    "EmbeddedRedis",
    "Held",
    "Replica",
    "Replicas",
    "Sighting",
    "masked",
]
