"""Adapters from any place that fsspec reaches and the configuration allows."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs  # type: ignore[import-untyped]

from polyad.adapters_store.atomic_file import atomic_file
from polyad.adapters_store.errors import InvalidSource, PolyadError, SourceUnavailable, TooLarge, UnknownSource
from polyad.adapters_store.source.adapter_files import (
    CONFIG_FILE,
    INITIAL_FILE,
    PICKLE_FILE,
    WEIGHTS_FILE,
    AdapterFiles,
)
from polyad.adapters_store.source.plain_url import PlainUrl
from polyad.adapters_store.source.policy import SourcePolicy

_PIECE_BYTES = 2**20
# Else a server at an allowed URL could send us on to any other.
_NO_REDIRECTS = {"http": {"allow_redirects": False}, "https": {"allow_redirects": False}}


def fetch_from_url(url: PlainUrl, into: Path, policy: SourcePolicy) -> AdapterFiles:
    """Blocks. `url` must be allowed by the policy."""
    source = str(url)
    with _answers(source):
        files, folder = url_to_fs(source, **_NO_REDIRECTS.get(url.scheme, {}))
        config = _copy(files, folder, CONFIG_FILE, into, policy.max_config_bytes)
        try:
            weights = _copy(files, folder, WEIGHTS_FILE, into, policy.max_bytes)
        except FileNotFoundError:
            if files.exists(f"{folder}/{PICKLE_FILE}"):
                allowed = f"a folder with {WEIGHTS_FILE}; {PICKLE_FILE} is a pickle and is never read"
                raise InvalidSource("source", source, allowed) from None
            raise
        initial = None
        if files.exists(f"{folder}/{INITIAL_FILE}"):
            initial = _copy(files, folder, INITIAL_FILE, into, policy.max_bytes)
    return AdapterFiles(config.read_bytes(), weights, source, initial)


def _copy(files: Any, folder: str, name: str, into: Path, limit: int) -> Path:
    target = into / name
    target.parent.mkdir(exist_ok=True)
    copied = 0
    with files.open(f"{folder}/{name}", "rb") as source, atomic_file(target) as file:
        while piece := source.read(_PIECE_BYTES):
            copied += len(piece)
            if copied > limit:
                raise TooLarge(f"source: {name}", f"more than {limit} bytes", f"at most {limit} bytes")
            file.write(piece)
    return target


@contextmanager
def _answers(source: str) -> Iterator[None]:
    try:
        yield
    except PolyadError:
        raise
    except FileNotFoundError as error:
        raise UnknownSource("source", source, f"has no {CONFIG_FILE} and {WEIGHTS_FILE}") from error
    except Exception as error:
        # each fsspec implementation has errors of its own, many of them no OSError
        raise SourceUnavailable(f"source: {source} did not answer: {type(error).__name__}") from error
