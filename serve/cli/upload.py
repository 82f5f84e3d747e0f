"""The files that PEFT writes, on their way to the server."""

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
INITIAL = "initial"


def adapter_files(folder: Path, initial: Path | None) -> dict[str, Path]:
    """Config and weights in a folder, and the weights from before training: in the folder `initial`, or in one of that
    name beside them, if there is one. Raises click.UsageError, saying what is missing."""
    if not folder.is_dir():
        raise click.UsageError(f"got {str(folder)!r}, allowed: a folder with {CONFIG} and {WEIGHTS}, or a URL")
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise click.UsageError(f"{folder} has no {' and no '.join(missing)}")
    before = (initial or folder / INITIAL) / WEIGHTS
    if initial is not None and not before.is_file():
        raise click.UsageError(f"{initial} has no {WEIGHTS}")
    files = {"config": folder / CONFIG, "weights": folder / WEIGHTS}
    return {**files, INITIAL: before} if before.is_file() else files


@contextmanager
def opened(files: Mapping[str, Path]) -> Iterator[dict[str, Any]]:
    """The files as httpx streams them, with a progress bar on stderr if that is a terminal."""
    with ExitStack() as stack:
        advance = stack.enter_context(_bar(sum(path.stat().st_size for path in files.values())))
        yield {
            field: (
                path.name,
                stack.enter_context(_Watched(path, advance)),
                "application/json" if path.name == CONFIG else "application/octet-stream",
            )
            for field, path in files.items()
        }


class _Watched(io.FileIO):
    """A file that tells how much was read of it."""

    def __init__(self, path: Path, advance: Callable[[int], None]) -> None:
        super().__init__(path)
        self._advance = advance

    def read(self, size: int | None = -1) -> bytes:
        chunk = super().read(-1 if size is None else size)
        self._advance(len(chunk))
        return chunk


@contextmanager
def _bar(size: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("pushing"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("pushing", total=size)
        yield lambda count: progress.advance(task, count)
