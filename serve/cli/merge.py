"""`polyad merge`: adapters or whole models, merged as a file says. No server."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from polyad.adapters_store.errors import InvalidInput, PolyadError
from polyad.serve.cli.client import print_json
from polyad.serve.cli.failure import Failure
from polyad.serve.cli.table import print_table, size_text

if TYPE_CHECKING:
    from polyad.adapters_store.merge import Recipe, Report
    from polyad.adapters_store.merge.execution import Progress
    from polyad.adapters_store.merge.statistics import StatisticsFile

_MOST_BYTES = 2**20
_OFFLINE = ("base", "statistics")


@click.command(short_help="Merge adapters, or whole models, as a recipe says.")
@click.argument("recipe", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER", required=True, help="New folder to write.")
@click.option("--base", "base_name", metavar="MODEL", help="The base model's folder. Default: the recipe's.")
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True, help="Threads to use.")
@click.option(
    "--picture", type=click.Path(path_type=Path), metavar="FILE", help="Write a heat map of the layers (SVG)."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def merge(recipe: Path, out: Path, base_name: str | None, threads: int, picture: Path | None, as_json: bool) -> None:
    """Merge what a YAML or JSON file names, as it says: polyad's recipes over folders of adapters, or mergekit's
    configurations over folders of models. Paths are relative to the file.

    \b
    Example:
      polyad merge ties.yaml --out ./merged --picture merged.svg
      polyad adapter push merged ./merged
    """
    try:
        _check_picture(picture, out)
        with _bar() as progress:
            report = _merged(_read(recipe), recipe.parent, out, base_name, threads, progress)
    except PolyadError as error:
        raise Failure(str(error)) from error
    if picture is not None:
        _write_picture(picture, report)
    if as_json:
        print_json(report.as_json())
    else:
        _show(report, out)


def _check_picture(picture: Path | None, out: Path) -> None:
    if picture is None:
        return
    if os.path.lexists(picture) or picture.absolute() == out.absolute():
        raise InvalidInput("--picture", str(picture), "a file that is not there yet")
    if not picture.parent.is_dir():
        raise InvalidInput("--picture", str(picture), "a file in a folder that is there")


def _write_picture(picture: Path, report: "Report") -> None:
    from polyad.adapters_store.merge.heat_map import heat_map

    try:
        # It may have come into being since the check.
        with picture.open("x") as file:
            file.write(heat_map(report))
    except OSError as error:
        raise Failure(f"the merge is written, its picture is not: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    import yaml

    if path.stat().st_size > _MOST_BYTES:
        raise InvalidInput("recipe", path.stat().st_size, f"at most {_MOST_BYTES} bytes")
    try:
        value = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidInput("recipe", path.name, f"YAML or JSON ({str(error).splitlines()[0]})") from error
    if not isinstance(value, dict):
        raise InvalidInput("recipe", type(value).__name__, "an object")
    return value


def _merged(
    value: dict[str, Any], folder: Path, out: Path, base_name: str | None, threads: int, progress: "Progress"
) -> "Report":
    from polyad.adapters_store.merge.mergekit import is_mergekit

    if os.path.lexists(out):
        raise InvalidInput("--out", str(out), "a folder that is not there yet")
    out.parent.mkdir(parents=True, exist_ok=True)
    if is_mergekit(value):
        if base_name is not None:
            raise InvalidInput("--base", base_name, "base_model in a configuration of mergekit's")
        return _merged_models(value, folder, out, progress)
    return _merged_adapters(value, folder, out, base_name, threads, progress)


def _merged_models(value: dict[str, Any], folder: Path, out: Path, progress: "Progress") -> "Report":
    from polyad.adapters_store.merge.mergekit import read_mergekit
    from polyad.adapters_store.merge.mergekit_models import open_models

    return open_models(read_mergekit(value), folder).write(out, progress)


def _merged_adapters(
    value: dict[str, Any], folder: Path, out: Path, base_name: str | None, threads: int, progress: "Progress"
) -> "Report":
    from polyad.adapters_store.base_model import BaseModel
    from polyad.adapters_store.merge import Execution, Recipe
    from polyad.adapters_store.merge.adapter_folder import read_adapter, write_adapter

    recipe = Recipe.from_dict({key: one for key, one in value.items() if key not in _OFFLINE})
    named = base_name or (str(folder / value["base"]) if isinstance(value.get("base"), str) else None)
    if named is None or not Path(named).is_dir():
        raise InvalidInput("base", named, "the folder of the base model, as --base or in the recipe")
    base = BaseModel.from_folder(Path(named), Path(named).resolve().name)
    with tempfile.TemporaryDirectory() as scratch:
        deltas = {source: read_adapter(folder / source, base, Path(scratch)) for source in recipe.sources}
        statistics = _statistics(value.get("statistics"), recipe, folder)
        merged = Execution(
            recipe=recipe,
            deltas=deltas,
            weights=base.weight,
            statistics=statistics,
            threads=threads,
            progress=progress,
        ).run()
        record = recipe.as_dict() | ({"statistics": [_sum(one.path) for one in statistics]} if statistics else {})
        others = {
            "merge_recipe.json": json.dumps(record, indent=2, sort_keys=True) + "\n",
            "merge_report.json": json.dumps(merged.report.as_json(), indent=2, sort_keys=True) + "\n",
        }
        write_adapter(merged.delta, base.name, out, others)
    return merged.report


def _statistics(given: object, recipe: "Recipe", folder: Path) -> "list[StatisticsFile] | None":
    """Where the recipe says, or beside each adapter. Raises InvalidInput if they are needed and not there."""
    from polyad.adapters_store.merge.statistics import StatisticsFile, file_name

    kind = recipe.statistics
    if kind is None:
        if given is not None:
            raise InvalidInput("statistics", given, f"none: {recipe.method} needs no statistics")
        return None
    if given is None:
        paths = [Path(one.terms[0][0]) / file_name(kind) for one in recipe.inputs]
    elif isinstance(given, list) and len(given) == len(recipe.inputs):
        paths = [Path(str(one)) for one in given]
    else:
        raise InvalidInput("statistics", given, f"a list of {len(recipe.inputs)} files, one for each input")
    for path in paths:
        if not (folder / path).is_file():
            allowed = f"files of {kind} statistics: make them with `polyad statistics ADAPTER --kind {kind}`"
            raise InvalidInput("statistics", str(path), allowed)
    return [StatisticsFile(folder / path, kind) for path in paths]


def _sum(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        return {"file": path.name, "sha256": file_digest(file, "sha256").hexdigest()}


def _show(report: "Report", out: Path) -> None:
    rows = [
        (
            one.module,
            f"{one.norm:.3g}",
            f"{sum(one.cosines) / len(one.cosines):.2f}" if one.cosines else "",
            f"{one.conflict:.1%}",
            f"{one.density:.1%}",
            one.form,
            str(one.rank or ""),
            f"{one.relative_error:.2%}",
        )
        for one in report.modules
    ]
    print_table(("module", "norm", "cosine", "conflict", "density", "form", "rank", "error"), rows)
    for warning in report.warnings:
        click.echo(f"warning: {warning}")
    error = f"relative error {report.relative_error:.2%}" if report.relative_error else "exact"
    click.echo(f"wrote {out}: {size_text(report.size)}, {error}, {report.seconds:.1f} s")


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("merging"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("merging", total=None)
        yield lambda done, of: progress.update(task, completed=done, total=of)
