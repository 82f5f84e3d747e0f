"""`polyad learn`: the worker that turns feedback into new versions."""

import asyncio
import logging
import signal
from pathlib import Path
from typing import Any

import click

from polyad.adapters_store.errors import ConfigError, PolyadError
from polyad.serve.cli.failure import BadConfiguration, Failure
from polyad.serve.cli.flags import settings_flags, settings_of
from polyad.serve.cli.progress import LogLines, Progress
from polyad.serve.config import Settings


@click.command(short_help="Turn feedback into new versions.")
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="FOLDER")
@click.option("--served-model-name", help="Name of the base model. Default: that of its folder.")
@settings_flags
def learn(model: Path, served_model_name: str | None, **flags: Any) -> None:
    """Train the adapters whose policy says so, on the feedback that a server collects.

    FOLDER holds the base model that the server serves. --state-dir (or --redis-url and --blobs) are the server's. Any
    number of workers share the work; one that is killed loses nothing. It steps back for whatever else runs on the
    machine, and computes with --learn-threads threads.

    \b
    Example:
      polyad learn ./Qwen3-4B --state-dir .state
    """
    settings = settings_of(flags)
    with Progress(repeat_s=60.0) as progress:
        handler = logging.StreamHandler()
        handler.setFormatter(LogLines(progress))
        logging.getLogger("polyad").addHandler(handler)
        progress("importing")
        try:
            asyncio.run(_run(model, served_model_name or model.name, settings, progress))
        except ConfigError as error:
            raise BadConfiguration(str(error)) from error
        except PolyadError as error:
            raise Failure(str(error)) from error
        except ImportError as error:
            raise Failure(f"{error}: training needs the extra `learn` (pip install 'polyad[learn]')") from error


async def _run(model: Path, name: str, settings: Settings, progress: Progress) -> None:
    # Only here: it takes seconds, and no other command needs it.
    from polyad.serve.learn.process import learn as work

    task = asyncio.ensure_future(work(model, name, settings, progress))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        progress("ended; what was begun goes on when a worker is started again")
