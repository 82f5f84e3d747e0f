"""A composable sparse fine-tuning (Ansell et al. 2022, arXiv:2110.07560) as an SFT adapter.

The authors' `pytorch_diff.bin` holds {"diffs": {parameter: {size, index_steps, values}}, "abs": {parameter: tensor}}. A
diff is added, an abs takes the parameter's place. The indices are flat, ascending, with the FIRST dimension fastest,
and each but the first is stored as its distance from the one before.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.formats.sft import INDICES, VALUES
from polyad.adapters_store.formats.sparse_values import sorted_sparse
from polyad.adapters_store.importer.adapter_folder import check_new, write_folder
from polyad.adapters_store.importer.other_tensors import refuse_others
from polyad.adapters_store.importer.report import ModuleReport, Report
from polyad.adapters_store.importer.restricted_pickle import read_pickled_tensors

FILE = "pytorch_diff.bin"


def import_composable_sft(source: Path, base: BaseModel, out: Path, *, ignore_other: bool = False) -> Report:
    """Write to `out` an SFT adapter for `base` of the file, or of the folder that has it, at `source`. It is exact.

    Diffs of linear weights become sparse terms, diffs and abs of their biases biases. Raises InvalidInput for other
    parameters, naming them, unless they are ignored, and for a file that is no composable SFT.
    """
    check_new(out)
    path = source / FILE if source.is_dir() else source
    content = _mapping(path.name, read_pickled_tensors(path))
    adapter = _Adapter(base)
    for name, encoded in _mapping(f"{path.name}: diffs", content.get("diffs", {})).items():
        adapter.add_diff(str(name), _Diff.decoded(str(name), encoded))
    for name, value in _mapping(f"{path.name}: abs", content.get("abs", {})).items():
        adapter.add_abs(str(name), value)
    refuse_others(sorted(adapter.others), ignore_other)
    if not adapter.tensors:
        raise InvalidInput("source", path.name, f"a change of linear layers of {base.name}")
    report = Report(
        kind="composable-sft",
        source=source.name,
        base=base.name,
        method={},
        modules=adapter.modules,
        biases=tuple(name.removesuffix(".bias") for name in adapter.tensors if name.endswith(".bias")),
        ignored=tuple(adapter.others),
    )
    config = {"peft_type": "SFT", "task_type": "CAUSAL_LM", "base_model_name_or_path": base.name}
    write_folder(out, config, adapter.tensors, report)
    return report


@dataclass(frozen=True, eq=False)
class _Diff:
    """`indices` are flat in the order of the file: the first dimension is the fastest."""

    size: tuple[int, ...]
    indices: torch.Tensor
    values: torch.Tensor

    @classmethod
    def decoded(cls, name: str, encoded: object) -> "_Diff":
        parts = _mapping(name, encoded)
        if parts.keys() != {"size", "index_steps", "values"}:
            raise InvalidInput(name, sorted(map(str, parts)), "size, index_steps and values")
        size, steps, values = parts["size"], parts["index_steps"], parts["values"]
        if not isinstance(size, tuple) or not all(type(item) is int and item > 0 for item in size):
            raise InvalidInput(f"{name}: size", size, "positive integers")
        if not isinstance(values, torch.Tensor) or not values.is_floating_point() or not values.isfinite().all():
            raise InvalidInput(f"{name}: values", type(values).__name__, "a tensor of finite numbers")
        try:
            # not all fit into 32 bits, though the authors decode them there
            indices = torch.as_tensor(steps, dtype=torch.int64).cumsum(0)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise InvalidInput(f"{name}: index_steps", type(steps).__name__, "a list of integers") from error
        if indices.shape != values.shape or values.dim() != 1:
            raise InvalidInput(name, (tuple(indices.shape), tuple(values.shape)), "one step for each value")
        return cls(size, indices, values)


@dataclass
class _Adapter:
    base: BaseModel
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    modules: dict[str, ModuleReport] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)

    def add_diff(self, name: str, diff: _Diff) -> None:
        module, part = self._linear(name)
        if module is None:
            self.others.append(name)
        elif part == "weight":
            self._add_weight(module, name, diff)
        else:
            old = self._old_bias(module, name, diff.size)
            changed = sorted_sparse(f"{name}: index_steps", diff.indices, diff.values.double(), (1, len(old)))
            old[changed.indices.long()] += changed.values
            self._add_bias(module, name, old)

    def add_abs(self, name: str, value: object) -> None:
        module, part = self._linear(name)
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or not value.isfinite().all():
            raise InvalidInput(f"abs: {name}", type(value).__name__, "a tensor of finite numbers")
        if module is None:
            self.others.append(name)
        elif part == "weight":
            raise InvalidInput(f"abs: {name}", "a whole weight", "diffs of linear weights: an abs is not sparse")
        else:
            self._old_bias(module, name, tuple(value.shape))
            self._add_bias(module, name, value)

    def _add_weight(self, module: str, name: str, diff: _Diff) -> None:
        shape = self.base.linears[module]
        stored = shape[::-1] if module in self.base.transposed else shape
        if diff.size != stored:
            raise InvalidInput(f"{name}: size", diff.size, str(stored))
        first, second = diff.indices % stored[0], diff.indices // stored[0]
        row, column = (second, first) if module in self.base.transposed else (first, second)
        # an index outside must not become one inside
        inside = (diff.indices >= 0) & (diff.indices < shape[0] * shape[1])
        flat = torch.where(inside, row * shape[1] + column, diff.indices)
        sparse = sorted_sparse(f"{name}: index_steps", flat, diff.values.float(), shape)
        self.tensors[f"{module}.{INDICES}"], self.tensors[f"{module}.{VALUES}"] = sparse.indices, sparse.values
        self.modules[module] = ModuleReport(float(sparse.values.double().norm()), 0.0, sparse.count)

    def _add_bias(self, module: str, name: str, bias: torch.Tensor) -> None:
        if f"{module}.bias" in self.tensors:
            raise InvalidInput(name, "both a diff and an abs", "one of them")
        self.tensors[f"{module}.bias"] = bias.float()

    def _old_bias(self, module: str, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        bias = self.base.bias(module)
        if bias is None or tuple(bias.shape) != shape:
            expected = "no such parameter" if bias is None else str(tuple(bias.shape))
            raise InvalidInput(name, shape, f"{expected} of base model {self.base.name!r}")
        return bias.double()

    def _linear(self, name: str) -> tuple[str | None, str]:
        """The linear layer and the part of it that a parameter is, by the model's name or by the inner model's."""
        module, _, part = name.rpartition(".")
        for path in (module, f"{self.base.prefix}.{module}"):
            if path in self.base.linears and part in ("weight", "bias"):
                return path, part
        return None, part


def _mapping(field: str, value: object) -> Mapping[object, object]:
    if isinstance(value, dict):
        return value
    raise InvalidInput(field, type(value).__name__, "a dict, as composable-sft writes it")
