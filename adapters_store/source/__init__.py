"""Where the files of a push come from when the client does not upload them."""

from polyad.adapters_store.source.adapter_files import AdapterFiles
from polyad.adapters_store.source.fetch import fetch_source
from polyad.adapters_store.source.folder import folder_source
from polyad.adapters_store.source.policy import SourcePolicy

__all__ = ["fetch_source", "folder_source", "AdapterFiles", "SourcePolicy"]
