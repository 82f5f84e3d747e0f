"""Adapters in a folder of the server's own, for scripts that name one (vLLM's load_lora_adapter)."""

import os
import stat
from pathlib import Path

from polyad.adapters_store.errors import Forbidden, InvalidSource, TooLarge, UnknownSource
from polyad.adapters_store.source.adapter_files import (
    CONFIG_FILE,
    INITIAL_FILE,
    PICKLE_FILE,
    WEIGHTS_FILE,
    AdapterFiles,
)

_MAX_PATH = 4_096


def folder_source(root: Path, path: str, max_config_bytes: int = 2**20, field: str = "lora_path") -> AdapterFiles:
    """The files of the adapter folder `path`, absolute or relative to `root`, wherever its links lead inside `root`.

    Blocks. Raises InvalidSource, TooLarge, UnknownSource, or Forbidden for whatever lies outside of `root`, whether
    or not it exists. The files are used in place.
    """
    if not path or "\0" in path or len(path) > _MAX_PATH:
        raise InvalidSource(field, path, f"a path of 1 to {_MAX_PATH} characters")
    top = root.resolve()
    folder = _inside(top, top / path, field, path)
    config = _inside(top, folder / CONFIG_FILE, field, path)
    weights = _inside(top, folder / WEIGHTS_FILE, field, path)
    initial = _inside(top, folder / INITIAL_FILE, field, path)
    try:
        if not weights.exists() and (folder / PICKLE_FILE).exists():
            allowed = f"a folder with {WEIGHTS_FILE}; {PICKLE_FILE} is a pickle and is never read"
            raise InvalidSource(field, path, allowed)
        for file in (config, weights, *([initial] if initial.exists() else [])):
            if not stat.S_ISREG(file.stat().st_mode):
                raise InvalidSource(field, path, f"a folder whose {file.name} is a regular file")
        content = _read(config, max_config_bytes)
        return AdapterFiles(content, weights, f"file://{folder}", initial if initial.exists() else None)
    except OSError as error:
        raise UnknownSource(field, path, f"has no {CONFIG_FILE} and {WEIGHTS_FILE} that can be read") from error


def _inside(top: Path, path: Path, field: str, given: str) -> Path:
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError) as error:
        raise InvalidSource(field, given, "a path without loops of links") from error
    if not resolved.is_relative_to(top):
        raise Forbidden(f"{field}: {given[:200]!r} does not lie under the configured root")
    return resolved


def _read(config: Path, max_bytes: int) -> bytes:
    # a second look at what was just checked: no pipe or device that came in between can block or flood us
    with open(os.open(config, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise TooLarge(CONFIG_FILE, config.stat().st_size, f"at most {max_bytes} bytes")
    return content
