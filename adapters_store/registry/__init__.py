"""The registry of adapters, versions, aliases and saved compositions, kept in Redis and mirrored in memory."""

from polyad.adapters_store.registry.connection import masked
from polyad.adapters_store.registry.embedded import EmbeddedRedis
from polyad.adapters_store.registry.events import Change, Event, Reloaded
from polyad.adapters_store.registry.merge_ledger import MergeLedger
from polyad.adapters_store.registry.records import (
    Adapter,
    Composition,
    MergedVersion,
    MergeEntry,
    Version,
    VersionDraft,
)
from polyad.adapters_store.registry.registry import UNSET, Registry, Unset
from polyad.adapters_store.registry.snapshot import Snapshot

__all__ = [
    "Registry",
    "Snapshot",
    "Adapter",
    "Version",
    "VersionDraft",
    "Composition",
    "MergedVersion",
    "MergeEntry",
    "MergeLedger",
    "Event",
    "Change",
    "Reloaded",
    "UNSET",
    "Unset",
    "EmbeddedRedis",
    "masked",
]
