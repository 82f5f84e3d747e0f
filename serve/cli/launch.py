"""From a parsed `polyad serve` to a server that runs until a signal ends it."""

import logging
import os
import resource
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from polyad.serve.cli.background_log import BackgroundLog
from polyad.serve.cli.example import base_options, what_to_try
from polyad.serve.cli.json_log import JsonLines
from polyad.serve.cli.lifetime import Lifetime, end_on_sigterm
from polyad.serve.cli.progress import LogLines, Progress
from polyad.serve.cli.sockets import socket_folder
from polyad.serve.config import Settings

if TYPE_CHECKING:
    from polyad.serve.service import AdapterService


def launch(model: str | None, options: Sequence[str], settings: Settings, example: bool) -> None:
    """Serve until SIGINT or SIGTERM ends the process. Raises PolyadError if the server cannot start.

    Without `model` the example's base model is served; with `example` its adapters are registered.
    """
    end_on_sigterm()
    with Progress() as progress, socket_folder():
        _write_logs(progress, settings.log_format)
        _prepare_process(settings, example)
        if model is None:
            model, options = _example_model(settings, options, progress)
        progress("importing the engine")
        from polyad.serve.server import Server

        lifetime = Lifetime()

        async def when_up(service: "AdapterService", url: str) -> None:
            if example:
                await _show_example(service, url, settings, progress)
            progress.settle()
            lifetime.serving = True

        lifetime.run(Server(model, options, settings, progress, when_up).run())


def _example_model(settings: Settings, options: Sequence[str], progress: Progress) -> tuple[str, Sequence[str]]:
    progress("importing the example")
    from polyad.serve.example import unpack_base_model
    from polyad.serve.example.base_model import MODEL_NAME

    folder = unpack_base_model(settings.state_dir / "base-models", progress)
    return str(folder), base_options(options, MODEL_NAME)


async def _show_example(service: "AdapterService", url: str, settings: Settings, progress: Progress) -> None:
    from polyad.serve.example.register import register_examples

    await register_examples(service, progress)
    click.echo(what_to_try(url, with_key=settings.admin_key is not None or settings.api_key is not None))


def _write_logs(progress: Progress, log_format: str) -> None:
    if log_format == "text":
        # A line for each request is for machines.
        logging.getLogger("polyad.serve.engine.telemetry").setLevel(logging.WARNING)
    logger = logging.getLogger("polyad")
    logger.setLevel(logging.INFO)
    logger.addHandler(BackgroundLog(JsonLines() if log_format == "json" else LogLines(progress)))
    logger.propagate = False


def _prepare_process(settings: Settings, example: bool) -> None:
    """What vLLM and its children take from the environment, before any of it is imported."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    if example and not settings.allow_hub:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # Every open stream is a file, and so is every connection to Redis.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
