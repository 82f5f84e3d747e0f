"""The adapters that come with the example, pushed as anybody would push them."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from polyad.adapters_store.errors import ConfigError, RegistryUnavailable
from polyad.adapters_store.source import AdapterFiles
from polyad.adapters_store.source.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from polyad.serve.service import AdapterService, Pushed

_FOLDER = Path(__file__).with_name("adapters")
_SOURCE = "example"
_PAUSE_S = 0.2
WAIT_S = 30.0


async def register_examples(service: AdapterService, report: Callable[[str], None], folder: Path = _FOLDER) -> None:
    """Push each packaged adapter; what is there already, with the same bytes, stays as it is and is not reported.

    Raises ConfigError if no adapters are packaged, and what AdapterService.push raises: RegistryUnavailable only
    after WAIT_S seconds.
    """
    for name, files in await asyncio.to_thread(_packaged, folder):
        pushed = await _push(service, name, files)
        if pushed.created:
            report(f"registered the example adapter {name}@{pushed.version.label}")


async def _push(service: AdapterService, name: str, files: AdapterFiles) -> Pushed:
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            return await service.push(name, files)
        except RegistryUnavailable:
            # An engine that starts can keep the event loop busy for so long that Redis seems to be away.
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(_PAUSE_S)


def _packaged(folder: Path) -> list[tuple[str, AdapterFiles]]:
    found = [
        (path.parent.name, AdapterFiles(path.read_bytes(), path.with_name(WEIGHTS_FILE), _SOURCE))
        for path in sorted(folder.glob(f"*/{CONFIG_FILE}"))
    ]
    if not found:
        raise ConfigError("the example's adapters are not part of this installation")
    return found
