"""`polyad serve`: the server."""

from typing import Any

import click

from polyad.adapters_store.errors import ConfigError, PolyadError
from polyad.serve.cli.failure import BadConfiguration, Failure
from polyad.serve.cli.flags import settings_flags, settings_of
from polyad.serve.cli.settings_table import print_settings


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    options_metavar="[OPTION]...",
    short_help="Serve a model and the adapters over it.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[MODEL] [vLLM OPTION]...")
@click.option("--example", is_flag=True, help="Serve a small base model and adapters that come along; no MODEL needed.")
@click.option("--print-config", is_flag=True, help="Show what every setting would be, and exit.")
@settings_flags
def serve(arguments: tuple[str, ...], example: bool, print_config: bool, **flags: Any) -> None:
    """Serve MODEL, a folder or a name on the Hugging Face hub, and the adapters over it.

    MODEL comes before vLLM's options. Every option that is not listed here goes to vLLM as it stands:
    --max-model-len, --dtype, --tensor-parallel-size and so on.

    \b
    Example:
      polyad serve Qwen/Qwen3-4B --slots 16 --port 9000 --max-model-len 8192
    """
    settings = settings_of(flags)
    if print_config:
        print_settings(settings)
        return
    model, options = _split(arguments)
    if model is None and not example:
        raise click.UsageError("MODEL is missing: it comes before vLLM's options (or --example instead of it)")
    # Only here: it takes seconds, and no other command needs it.
    from polyad.serve.cli.launch import launch

    try:
        launch(model, options, settings, example)
    except ConfigError as error:
        raise BadConfiguration(str(error)) from error
    except PolyadError as error:
        raise Failure(str(error)) from error


def _split(arguments: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], arguments[1:]
    return None, arguments
