"""`polyad statistics`: what Fisher averaging, RegMean and learned grafts must know of an adapter, from its data."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from polyad.adapters_store.errors import InvalidInput, PolyadError
from polyad.serve.cli.failure import Failure
from polyad.serve.cli.table import size_text

if TYPE_CHECKING:
    import torch

    from polyad.adapters_store.base_model import BaseModel
    from polyad.adapters_store.delta import Delta
    from polyad.adapters_store.merge.statistics import Kind
    from polyad.serve.learn.merge_statistics import Track
    from polyad.serve.learn.train.tokens import Row

    # The tensors, what the file says of how they came about, and what there is to tell.
    Measured = tuple[Mapping[str, torch.Tensor], dict[str, Any], str]


@click.command(short_help="Measure what Fisher averaging, RegMean and learned grafts need.")
@click.argument("adapter", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--base", "base_name", metavar="MODEL", required=True, help="The base model: a folder, or a hub's name.")
@click.option(
    "--kind", type=click.Choice(("fisher", "gram", "graft")), required=True, help="For `fisher`, `regmean` or `graft`."
)
@click.option(
    "--data",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    required=True,
    help='JSONL: {"messages": [...]} or {"prompt": ..., "answer": ...}.',
)
@click.option("--examples", type=click.IntRange(1), default=256, show_default=True, help="Read at most so many.")
@click.option("--max-length", type=click.IntRange(8), default=1024, show_default=True, help="Tokens of an example.")
@click.option(
    "--labels",
    type=click.Choice(("sampled", "data")),
    default="sampled",
    show_default=True,
    help="fisher: each token drawn from the model, or the examples' own (empirical Fisher).",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of what is drawn.")
@click.option(
    "--density",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.01,
    show_default=True,
    help="graft: the share of elements to begin with.",
)
@click.option("--epochs", type=click.IntRange(1), default=4, show_default=True, help="graft: over the examples.")
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    default=1e7,
    show_default=True,
    help="graft: the learning rate, very large by its nature.",
)
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="Threads, on a CPU.")
@click.option("--targets", metavar="NAMES", help="Linear layers, as q_proj,v_proj. Default: those of the adapter.")
def statistics(**given: Any) -> None:
    """Run the base model with the adapter in the folder ADAPTER over examples of its task, and write
    KIND.safetensors beside it, where `polyad merge` finds it.

    All adapters of a merge need statistics of all layers that any of them changes: name them with --targets if the
    adapters differ. The base in float32, and as much again for the layers looked at, must fit into memory.

    \b
    Example:
      polyad statistics ./support --base ./base --kind fisher --data support.jsonl
      polyad merge fisher.yaml --out ./merged
    """
    try:
        with _bar() as track:
            out, told = _Request(**given).measured(track)
    except PolyadError as error:
        raise Failure(str(error)) from error
    except ImportError as error:
        raise Failure(f"{error}: statistics need the extra `learn` (pip install 'polyad[learn]')") from error
    click.echo(f"wrote {out}: {size_text(out.stat().st_size)}{told}")


@dataclass(frozen=True, kw_only=True)
class _Request:
    """What the command was given."""

    adapter: Path
    base_name: str
    kind: "Kind"
    data: Path
    examples: int
    max_length: int
    labels: str
    seed: int
    density: float
    epochs: int
    rate: float
    threads: int
    targets: str | None

    def measured(self, track: "Track") -> tuple[Path, str]:
        """The file that was written, and what there is to say of it."""
        import torch

        from polyad.adapters_store.base_model import BaseModel, model_folder
        from polyad.adapters_store.merge.adapter_folder import read_adapter
        from polyad.adapters_store.merge.statistics import file_name, write_statistics
        from polyad.serve.learn.merge_statistics import read_rows

        torch.set_num_threads(self.threads)
        folder = Path(self.base_name) if Path(self.base_name).is_dir() else model_folder(self.base_name)
        base = BaseModel.from_folder(folder, folder.resolve().name)
        rows, padding = read_rows(self.data, folder, self.examples, self.max_length)
        with tempfile.TemporaryDirectory() as scratch:
            delta = read_adapter(self.adapter, base, Path(scratch))
        measure = self._mask if self.kind == "graft" else self._means
        tensors, about, told = measure(folder, base, delta, rows, padding, track)
        about |= {"examples": len(rows), "base": base.fingerprint}
        out = self.adapter / file_name(self.kind)
        write_statistics(self.kind, tensors, out, {name: str(value) for name, value in about.items()})
        return out, told

    def _means(
        self, folder: Path, base: "BaseModel", delta: "Delta", rows: "Sequence[Row]", padding: int, track: "Track"
    ) -> "Measured":
        from polyad.serve.learn.merge_statistics import Survey, tuned_model

        modules = sorted(delta.modules) if self.targets is None else _modules(base, self.targets.split(","))
        survey = Survey(kind=self.kind, modules=modules, sampled=self.labels == "sampled", seed=self.seed)
        means = survey.run(tuned_model(folder, base, delta), rows, padding, track)
        return means.tensors(), {"labels": self.labels, "seed": self.seed}, ""

    def _mask(
        self, folder: Path, base: "BaseModel", delta: "Delta", rows: "Sequence[Row]", padding: int, track: "Track"
    ) -> "Measured":
        from polyad.serve.learn.graft import Graft
        from polyad.serve.learn.merge_statistics import bare_model

        graft = Graft(density=self.density, epochs=self.epochs, rate=self.rate)
        found = graft.run(bare_model(folder), base, delta, rows, padding, track)
        about = {"density": self.density, "epochs": self.epochs, "rate": self.rate, "retained": found.retained}
        told = (
            f"\nkept {found.share:.2%} of the elements, and {found.retained:.0%} of what the adapter gains on this data"
            f"\nnats a token: base {found.base:.3f}, adapter {found.whole:.3f}, largest {self.density:.2%} "
            f"{found.magnitude:.3f}, learned {found.learned:.3f}"
        )
        return found.masks, about, told


def _modules(base: "BaseModel", names: Sequence[str]) -> list[str]:
    """Raises InvalidInput for a name that no linear layer has."""
    for name in names:
        if not any(module.split(".")[-1] == name for module in base.linears):
            known = sorted({module.split(".")[-1] for module in base.linears})
            raise InvalidInput("targets", name, ", ".join(known))
    return sorted(module for module in base.linears if module.split(".")[-1] in names)


@contextmanager
def _bar() -> Iterator["Track"]:
    """Lets examples go by, with a progress bar on stderr if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield progress.track
