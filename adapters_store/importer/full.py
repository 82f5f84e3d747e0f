"""A full fine-tune as an adapter: its difference from the base, one tensor after the other.

Memory holds one module's change, and the adapter.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.delta import LowRank, Sparse
from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.formats.sft import INDICES, VALUES
from polyad.adapters_store.importer.adapter_folder import check_new, write_folder
from polyad.adapters_store.importer.method import Method
from polyad.adapters_store.importer.other_tensors import changed_others, refuse_others
from polyad.adapters_store.importer.report import ModuleReport, Report

_BLOCK_ROWS = 1024

Track = Callable[[Sequence[str]], Iterable[str]]


def import_full(
    source: Path, base: BaseModel, method: Method, out: Path, *, ignore_other: bool = False, track: Track = iter
) -> Report:
    """Write to `out` an adapter that changes `base` into the model in the folder `source`, as near as `method` allows.

    A LoRA for a rank or an energy, an SFT adapter for a density; changed biases of linear layers are in it exactly.
    `track` sees the modules go by. Raises InvalidInput, naming them, for other changed tensors, unless they are
    ignored; also for a model of another shape, weights that cannot be read, or a fine-tune that changed nothing.
    """
    check_new(out)
    tuned = BaseModel.from_folder(source, source.name)
    if (tuned.linears, tuned.biased) != (base.linears, base.biased):
        raise InvalidInput("source", source.name, f"a model with the linear layers of {base.name}")
    others = changed_others(base, tuned)
    refuse_others(others, ignore_other)
    changes = _Changes(method)
    for module in track(sorted(base.linears)):
        changes.add(module, base, tuned)
    if not changes.modules and not changes.biases:
        raise InvalidInput("source", source.name, f"a model whose linear layers differ from those of {base.name}")
    report = Report(
        kind="full",
        source=source.name,
        base=base.name,
        method={name: value for name, value in vars(method).items() if value is not None},
        modules=changes.modules,
        biases=tuple(changes.biases),
        ignored=tuple(others),
    )
    write_folder(out, *(changes.as_sft(base) if method.is_sparse else changes.as_lora(base)), report)
    return report


@dataclass
class _Changes:
    method: Method
    modules: dict[str, ModuleReport] = field(default_factory=dict)
    biases: dict[str, torch.Tensor] = field(default_factory=dict)
    terms: dict[str, LowRank | Sparse] = field(default_factory=dict)

    def add(self, module: str, base: BaseModel, tuned: BaseModel) -> None:
        change = _difference(module, base, tuned)
        if bool(change.any()):
            term = self.method.sparse(change) if self.method.is_sparse else self.method.low_rank(change)
            kept = term.count if isinstance(term, Sparse) else term.rank
            self.modules[module] = ModuleReport(float(change.norm()), _error(change, term), kept)
            self.terms[module] = term
        old, new = base.bias(module), tuned.bias(module)
        if old is not None and new is not None and not old.double().equal(new.double()):
            self.biases[module] = new.float()

    def as_sft(self, base: BaseModel) -> tuple[dict[str, object], dict[str, torch.Tensor]]:
        tensors = {f"{module}.bias": bias for module, bias in self.biases.items()}
        for module, term in self.terms.items():
            if isinstance(term, Sparse):
                tensors[f"{module}.{INDICES}"], tensors[f"{module}.{VALUES}"] = term.indices, term.values
        return {**_config("SFT", base), "density": self.method.density}, tensors

    def as_lora(self, base: BaseModel) -> tuple[dict[str, object], dict[str, torch.Tensor]]:
        if not self.terms:
            return _config("BITFIT", base), {f"{module}.bias": bias for module, bias in self.biases.items()}
        tensors = self._all_biases(base)
        ranks = {}
        for module, term in self.terms.items():
            if isinstance(term, LowRank):
                tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"] = term.a, term.b
                ranks[module] = term.rank
        return {**_config("LORA", base), **_lora_ranks(ranks), "bias": "all" if self.biases else "none"}, tensors

    def _all_biases(self, base: BaseModel) -> dict[str, torch.Tensor]:
        """As PEFT writes bias='all': those that were not changed too, and those of adapted modules in base_layer."""
        if not self.biases:
            return {}
        stored = {}
        for module in sorted(base.biased):
            place = f"{module}.base_layer.bias" if module in self.terms else f"{module}.bias"
            bias = self.biases[module] if module in self.biases else base.bias(module)
            if bias is not None:
                stored[place] = bias.float()
        return stored


def _config(kind: str, base: BaseModel) -> dict[str, object]:
    return {"peft_type": kind, "task_type": "CAUSAL_LM", "base_model_name_or_path": base.name}


def _lora_ranks(ranks: Mapping[str, int]) -> dict[str, object]:
    """Every module's own rank, and a scale of 1."""
    rank = Counter(ranks.values()).most_common(1)[0][0]
    others = {re.escape(module): one for module, one in sorted(ranks.items()) if one != rank}
    return {
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
    }


def _difference(module: str, base: BaseModel, tuned: BaseModel) -> torch.Tensor:
    change = torch.empty(base.linears[module], dtype=torch.float32)
    for (rows, old), (_, new) in zip(base.weight_blocks(module), tuned.weight_blocks(module), strict=True):
        if not bool(new.isfinite().all()):
            raise InvalidInput(f"source: {module}.weight", "NaN or infinity", "finite values")
        change[rows] = (new - old).float()
    return change


def _error(change_OI: torch.Tensor, term: LowRank | Sparse) -> float:
    """The norm of what the term, as it is stored, lacks of the change."""
    if isinstance(term, Sparse):
        rest = change_OI.double().flatten()
        rest[term.indices.long()] -= term.values.double()
        return float(rest.norm())
    squares = sum(float(block.square().sum()) for block in _rest_blocks(change_OI, term))
    return float(squares**0.5)


def _rest_blocks(change_OI: torch.Tensor, term: LowRank) -> Iterator[torch.Tensor]:
    a_RI = term.a.double()
    for start in range(0, len(change_OI), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        yield change_OI[rows].double() - term.scale * term.b[rows].double() @ a_RI
