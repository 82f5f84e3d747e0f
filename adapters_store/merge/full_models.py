"""Merges of whole models, tensor by tensor: folders of safetensors in, a folder of safetensors out.

A task vector is a model's tensor minus the base model's; linear and slerp work on the weights themselves, as mergekit
does. Memory holds one tensor of every model, what is left of it, and one shard of the result.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
from safetensors.torch import save_file

from polyad.adapters_store.checkpoint import INDEX_FILE, SINGLE_FILE, Checkpoint
from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.merge.consensus import total
from polyad.adapters_store.merge.execution import Progress
from polyad.adapters_store.merge.method import Products, Tensors
from polyad.adapters_store.merge.recipe import Recipe
from polyad.adapters_store.merge.report import ModuleReport, Report
from polyad.adapters_store.merge.setting import Places
from polyad.adapters_store.merge.task import written

_SHARD_BYTES = 4 * 2**30
_CONFIG = "config.json"
_COPIED = (
    _CONFIG,
    "generation_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
)


@dataclass(frozen=True, kw_only=True)
class FullMerge:
    """`folders` are those of the recipe's inputs, in order; `dtype` is the result's, None as the base's (or the
    first's)."""

    recipe: Recipe
    base: Path | None
    folders: Sequence[Path]
    dtype: torch.dtype | None = None
    shard_bytes: int = _SHARD_BYTES

    def write(self, out: Path, progress: Progress) -> Report:
        """Write the merged model to `out`, whole or not at all. Raises InvalidInput."""
        if os.path.lexists(out):
            raise InvalidInput("out", str(out), "a folder that is not there yet")
        if self.base is None and not self.recipe.declaration.on_weights:
            raise InvalidInput("base_model", None, f"a model: {self.recipe.method} merges what differs from it")
        if self.recipe.variant in self.recipe.declaration.whole_model:
            raise InvalidInput("variant", self.recipe.variant, "a variant that looks at one tensor at a time")
        config = self._config()
        began = time.monotonic()
        partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        try:
            reports = self._write_shards(partial, progress)
            self._copy_rest(partial)
            if config is not None:
                (partial / _CONFIG).write_text(config)
            partial.chmod(0o755)
            os.replace(partial, out)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return Report(
            method=self.recipe.method,
            variant=str(self.recipe.variant),
            inputs=[folder.name for folder in self.folders],
            modules=reports,
            seconds=time.monotonic() - began,
        )

    def _write_shards(self, folder: Path, progress: Progress) -> list[ModuleReport]:
        names, writer, reports = self._names(), _Shards(folder, self.shard_bytes), []
        for done, (name, merged, report) in enumerate(self._merged(names), 1):
            writer.add(name, merged)
            reports.append(report)
            progress(done, len(names))
        writer.finish()
        return reports

    def _names(self) -> list[str]:
        checkpoints = [Checkpoint(folder) for folder in self._all_folders()]
        names = set(checkpoints[0].files)
        for folder, checkpoint in zip(self._all_folders(), checkpoints, strict=True):
            if set(checkpoint.files) != names:
                differing = sorted(names ^ set(checkpoint.files))[:3]
                raise InvalidInput("models", folder.name, f"models with the same tensors; these differ: {differing}")
        return sorted(names)

    def _all_folders(self) -> list[Path]:
        return [*([self.base] if self.base is not None else []), *self.folders]

    def _merged(self, names: Sequence[str]) -> Iterator[tuple[str, torch.Tensor, ModuleReport]]:
        places = Places(names)
        checkpoints = [Checkpoint(folder) for folder in self.folders]
        base = None if self.base is None else Checkpoint(self.base)
        on_weights = self.recipe.declaration.on_weights
        for name in names:
            stored = [checkpoint.tensor(name) for checkpoint in checkpoints]
            origin = None if base is None else base.tensor(name)
            if len({tuple(one.shape) for one in (*stored, *([] if origin is None else [origin]))}) > 1:
                raise InvalidInput(name, [list(one.shape) for one in stored], "one shape in every model")
            start = None if on_weights or origin is None else origin.float()
            tasks = [one.float() - start if start is not None else one.float().clone() for one in stored]
            measured = _Measured(name, tasks)
            merged = self._merge(name, tasks, places)
            dtype = self.dtype or (stored[0] if origin is None else origin).dtype
            result = _cast(name, merged if start is None else start + merged, dtype)
            yield name, result, measured.report(merged, result)

    def _merge(self, name: str, tasks: list[torch.Tensor], places: Places) -> torch.Tensor:
        recipe, method = self.recipe, self.recipe.declaration
        weights, values = recipe.weights(name, places), recipe.values(name, places)
        if method.coefficients is not None:
            flat = [task.double().flatten() for task in tasks]
            products = [[float(one @ other) for other in flat] for one in flat] if method.needs_products else []
            return written(total(tasks, method.coefficients(Products(products, weights, values))))
        if method.combine is None:
            raise InvalidInput("method", method.name, "a method that merges tensors")
        tensors = Tensors(name, tasks, weights, values, recipe.input_values(name, places), recipe.seed)
        return written(method.combine(tensors))

    def _config(self) -> str | None:
        """The model's config with the dtype of the result. None for one that stays as it is, or is not there."""
        path = self._all_folders()[0] / _CONFIG
        if self.dtype is None or not path.is_file():
            return None
        try:
            config = json.loads(path.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise InvalidInput("models", path.parent.name, f"a model with a readable {_CONFIG}") from error
        if not isinstance(config, dict):
            raise InvalidInput("models", path.parent.name, f"a model whose {_CONFIG} is an object")
        # transformers writes `dtype`; it wrote `torch_dtype` once, and others still read that
        keys = ("dtype", *(key for key in ("torch_dtype",) if key in config))
        config |= dict.fromkeys(keys, str(self.dtype).removeprefix("torch."))
        return json.dumps(config, indent=2, sort_keys=True) + "\n"

    def _copy_rest(self, folder: Path) -> None:
        source = self._all_folders()[0]
        for path in source.iterdir():
            if path.is_file() and (path.name in _COPIED or path.name.startswith(("tokenizer", "merges"))):
                shutil.copyfile(path, folder / path.name)


def _cast(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    result = tensor.to(dtype).contiguous()
    if not result.isfinite().all():
        given = f"values that are not finite as {str(dtype).removeprefix('torch.')}"
        raise InvalidInput(
            name, given, "finite ones: finite models, smaller weights, or an out_dtype of a larger range"
        )
    return result


class _Shards:
    """Writes tensors into files of a bounded size, and the index of them if there are several."""

    def __init__(self, folder: Path, bound: int) -> None:
        self._folder = folder
        self._bound = bound
        self._tensors: dict[str, torch.Tensor] = {}
        self._files: list[list[str]] = []
        self._size = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        self._tensors[name] = tensor
        self._size += tensor.nbytes
        if sum(one.nbytes for one in self._tensors.values()) >= self._bound:
            self._write()

    def finish(self) -> None:
        """Give the files the names that they are looked for by."""
        self._write()
        count = len(self._files)
        if count == 1:
            os.replace(self._partial(1), self._folder / SINGLE_FILE)
            return
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self._files, 1):
            file = f"model-{number:05}-of-{count:05}.safetensors"
            os.replace(self._partial(number), self._folder / file)
            weight_map |= dict.fromkeys(names, file)
        index = {"metadata": {"total_size": self._size}, "weight_map": weight_map}
        (self._folder / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")

    def _write(self) -> None:
        if self._tensors:
            self._files.append(list(self._tensors))
            save_file(self._tensors, self._partial(len(self._files)), {"format": "pt"})
            self._tensors = {}

    def _partial(self, number: int) -> Path:
        return self._folder / f"part-{number}.safetensors"


class _Measured:
    """What is to be known of the inputs, before a merge writes over them."""

    def __init__(self, name: str, tasks: Sequence[torch.Tensor]) -> None:
        self._name = name
        self._norms = [float(task.double().norm()) for task in tasks]
        pairs = combinations(range(len(tasks)), 2)
        self._cosines = [
            float((tasks[a].double() * tasks[b].double()).sum()) / (self._norms[a] * self._norms[b] or 1.0)
            for a, b in pairs
        ]
        signs = sum((task.sign() for task in tasks[1:]), tasks[0].sign()).abs()
        touched = sum(((task != 0).float() for task in tasks[1:]), (tasks[0] != 0).float())
        several = touched >= 2
        self._conflict = float((several & (signs < touched)).sum()) / max(int(several.sum()), 1)

    def report(self, merged: torch.Tensor, result: torch.Tensor) -> ModuleReport:
        return ModuleReport(
            module=self._name,
            norms=self._norms,
            cosines=self._cosines,
            conflict=self._conflict,
            norm=float(merged.double().norm()),
            density=int(torch.count_nonzero(merged)) / max(merged.numel(), 1),
            form="full",
            rank=0,
            error=0.0,
            size=result.nbytes,
        )
