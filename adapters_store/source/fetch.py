"""Fetches the files of a push from where the client says they are, as far as the configuration allows."""

import asyncio
from pathlib import Path

from polyad.adapters_store.errors import InvalidSource
from polyad.adapters_store.source.adapter_files import AdapterFiles
from polyad.adapters_store.source.folder import folder_source
from polyad.adapters_store.source.hub import SCHEME, fetch_from_hub
from polyad.adapters_store.source.plain_url import PlainUrl
from polyad.adapters_store.source.policy import SourcePolicy
from polyad.adapters_store.source.remote_folder import fetch_from_url

_LOCAL_SCHEMES = ("file", "local")


async def fetch_source(source: str, into: Path, policy: SourcePolicy) -> AdapterFiles:
    """Fetch `hf://org/repo[@revision]`, or a folder at an allowed URL, into `into`, an empty folder of the caller's.

    Raises InvalidSource (malformed or not allowed), UnknownSource, TooLarge, SourceUnavailable; for a folder of this
    machine also Forbidden, and its files are used where they lie.
    """
    if source.startswith(SCHEME):
        return await asyncio.to_thread(fetch_from_hub, source, into, policy)
    url = PlainUrl.parse("source", source)
    prefix = policy.allowing(url)
    if prefix is None:
        raise InvalidSource("source", source, "hf://organisation/repository, or a URL that the configuration allows")
    if url.scheme in _LOCAL_SCHEMES:
        if url.host:
            raise InvalidSource("source", source, f"{url.scheme}:///path")
        return await asyncio.to_thread(
            folder_source, Path(prefix.path), url.path, policy.max_config_bytes, field="source"
        )
    return await asyncio.to_thread(fetch_from_url, url, into, policy)
