"""From models and files that are no adapters to folders that can be pushed. Runs offline; no server imports it."""

from polyad.adapters_store.importer.composable_sft import import_composable_sft
from polyad.adapters_store.importer.full import import_full
from polyad.adapters_store.importer.method import Method
from polyad.adapters_store.importer.report import Report

__all__ = ["import_full", "import_composable_sft", "Method", "Report"]
