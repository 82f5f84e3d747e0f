"""`polyad learn`: the worker that turns feedback into new versions."""

import asyncio
import logging
import signal
from typing import Any

import click

from polyad.adapters_store.errors import ConfigError, PolyadError
from polyad.serve.cli.failure import BadConfiguration, Failure
from polyad.serve.cli.flags import settings_flags, settings_of
from polyad.serve.cli.progress import LogLines, Progress
from polyad.serve.config import Settings


@click.command(short_help="Turn feedback into new versions.")
@click.argument("model")
@settings_flags
def learn(model: str, **flags: Any) -> None:
    """Train the adapters whose policy says so, on the feedback that a server collects.

    MODEL is the base model that the server serves: a folder, or a name on the Hugging Face hub. --state-dir (or
    --redis-url and --blobs) are the server's. Any number of workers share the work; one that is killed loses nothing.
    It steps back for whatever else runs on the machine, and computes with --learn-threads threads.

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
            asyncio.run(_run(model, settings, progress))
        except ConfigError as error:
            raise BadConfiguration(str(error)) from error
        except PolyadError as error:
            raise Failure(str(error)) from error
        except ImportError as error:
            raise Failure(f"{error}: training needs the extra `learn` (pip install 'polyad[learn]')") from error


async def _run(model: str, settings: Settings, progress: Progress) -> None:
    # Only here: it takes seconds, and no other command needs it.
    from polyad.serve.learn.process import learn as work

    task = asyncio.ensure_future(work(model, settings, progress))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        progress("ended; what was begun goes on when a worker is started again")
