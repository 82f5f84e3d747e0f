"""Delta files, stored by the digest of their bytes."""

from polyad.adapters_store.blobs.blob_store import BlobStore
from polyad.adapters_store.blobs.stored_blob import StoredBlob

__all__ = ["BlobStore", "StoredBlob"]
