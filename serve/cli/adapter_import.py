"""`polyad adapter import`: from a full fine-tune, or a composable SFT, to a folder that can be pushed. No server."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from polyad.adapters_store.errors import PolyadError
from polyad.serve.cli.client import print_json
from polyad.serve.cli.failure import Failure
from polyad.serve.cli.table import print_table

if TYPE_CHECKING:
    from polyad.adapters_store.base_model import BaseModel
    from polyad.adapters_store.importer import Report

_KINDS = ("full", "composable-sft")


@click.command("import")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--base", "base_name", metavar="MODEL", required=True, help="The base model: a folder, or a hub's name.")
@click.option("--kind", type=click.Choice(_KINDS), required=True, help="What SOURCE is.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER", required=True, help="New folder to write.")
@click.option("--rank", type=int, help="full: keep a LoRA of this rank.")
@click.option("--energy", type=float, help="full: keep a LoRA with this share of each change's squared norm.")
@click.option("--density", type=float, help="full: keep this share of each change's values, the largest.")
@click.option("--ignore-other", is_flag=True, help="Leave out changed embeddings, norms and heads.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def import_(
    source: Path,
    base_name: str,
    kind: str,
    out: Path,
    rank: int | None,
    energy: float | None,
    density: float | None,
    ignore_other: bool,
    as_json: bool,
) -> None:
    """Make an adapter of a full fine-tune's folder, or of a composable SFT (pytorch_diff.bin). Needs no server.

    What is lost is printed, and written to import_report.json beside the adapter.

    \b
    Example:
      polyad adapter import ./tuned --base ./base --kind full --rank 32 --out ./support-lora
      polyad adapter push support ./support-lora
    """
    given = {"rank": rank, "energy": energy, "density": density}
    if kind != "full" and any(value is not None for value in given.values()):
        raise click.UsageError(f"--rank, --energy and --density are for --kind full; {kind} is exact")
    try:
        report = _imported(source, base_name, kind, out, given, ignore_other)
    except PolyadError as error:
        raise Failure(str(error)) from error
    if as_json:
        print_json(report.as_json())
    else:
        _show(report, out)


def _imported(
    source: Path,
    base_name: str,
    kind: str,
    out: Path,
    given: "dict[str, int | float | None]",
    ignore_other: bool,
) -> "Report":
    from polyad.adapters_store.importer import Method, import_composable_sft, import_full

    if kind == "composable-sft":
        return import_composable_sft(source, _base_model(base_name), out, ignore_other=ignore_other)
    method = Method(**given)  # type: ignore[arg-type]  # click has made them int and float
    with _bar() as track:
        return import_full(source, _base_model(base_name), method, out, ignore_other=ignore_other, track=track)


def _base_model(name: str) -> "BaseModel":
    from polyad.adapters_store.base_model import BaseModel, model_folder

    if Path(name).is_dir():
        return BaseModel.from_folder(Path(name), Path(name).resolve().name)
    return BaseModel.from_folder(model_folder(name), name)


def _show(report: "Report", out: Path) -> None:
    entries = {**report.by_kind(), "all": (len(report.modules), report.relative_error)}
    rows = [(kind, str(count), f"{error:.2%}") for kind, (count, error) in entries.items()]
    print_table(("modules", "changed", "relative error"), rows)
    if report.biases:
        click.echo(f"biases, exact: {len(report.biases)}")
    if report.ignored:
        click.echo(f"left out: {', '.join(report.ignored)}")
    click.echo(f"wrote {out}")


@contextmanager
def _bar() -> Iterator[Callable[[Sequence[str]], Iterable[str]]]:
    """Lets modules go by, with a progress bar on stderr if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("importing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield progress.track
