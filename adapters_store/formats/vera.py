"""VeRA (Kopiczko et al. 2023, arXiv:2310.11454), as PEFT stores it: two vectors a module, one pair A, B for all.

    dW = diag(lambda_b) B[:out] diag(lambda_d) A[:, :in]

A and B come from a random generator that is not the same everywhere, so they must be in the file (save_projection).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.delta import LowRank, ModuleDelta, ModuleSource
from polyad.adapters_store.errors import InvalidAdapter
from polyad.adapters_store.formats import config_values
from polyad.adapters_store.formats.config_keys import MODULES_TO_SAVE, ConfigKeys
from polyad.adapters_store.formats.conversion import converted
from polyad.adapters_store.formats.selection import SELECTION_KEYS, Selection
from polyad.adapters_store.formats.stored_bias import StoredBiases, bias_mode, bias_part
from polyad.adapters_store.formats.tensor_file import TensorFile
from polyad.adapters_store.formats.tensor_names import check_parts, tensor_names

VERA_KEYS = ConfigKeys(
    consumed=SELECTION_KEYS | {"r", "save_projection", "bias"},
    unused={
        "d_initial": (int, float),
        "fan_in_fan_out": (bool,),
        "init_weights": (bool,),
        "projection_prng_key": (int,),
        "vera_dropout": (int, float),
    },
    off=MODULES_TO_SAVE,
)

_PARTS = {"vera_lambda_b": "vera_lambda_b", "vera_lambda_d": "vera_lambda_d"}
_A, _B = "base_model.vera_A", "base_model.vera_B"
_ALLOWED = f"{_A}, {_B} and base_model.model.<module>.vera_lambda_b and .vera_lambda_d"

Projection = Callable[[str], torch.Tensor]


@dataclass(frozen=True)
class Vera:
    selection: Selection
    rank: int
    bias: str
    kind: ClassVar[str] = "vera"
    index_suffixes: ClassVar[tuple[str, ...]] = ()
    needs_initial: ClassVar[bool] = False

    @classmethod
    def parse(cls, config: Mapping[str, object]) -> "Vera":
        VERA_KEYS.check(config)
        if config.get("save_projection", True) is not True:
            allowed = "true: without the projection the adapter means another on another machine"
            raise InvalidAdapter("adapter_config.save_projection", config["save_projection"], allowed)
        return cls(
            selection=Selection.parse(config),
            rank=config_values.positive_integer("r", config.get("r", 256)),
            bias=bias_mode(config, "vera_only"),
        )

    def read(self, file: TensorFile, base: BaseModel, initial: TensorFile | None) -> dict[str, ModuleSource]:
        adapted = self.selection.modules(base)
        names = tensor_names(file, {**_PARTS, **bias_part(self.bias)}, _ALLOWED, other=(_A, _B))
        biases = StoredBiases.matched(self.bias, adapted, file, names, base)
        self._check_projection(file, [base.linears[module] for module in adapted])
        for module in adapted:
            check_parts(file, names, module, _PARTS)
            out_features = base.linears[module][0]
            file.check_shape(names[module]["vera_lambda_b"], (out_features,), f"the outputs of {module}")
            file.check_shape(names[module]["vera_lambda_d"], (self.rank,), f"rank {self.rank}")
        # all modules share them, so they are read once
        projection = cache(file.tensor)
        return {
            module: self._source(biases, module, projection if module in adapted else None)
            for module in sorted({*adapted, *biases.modules})
        }

    def _check_projection(self, file: TensorFile, shapes: list[tuple[int, int]]) -> None:
        largest_out, largest_in = (max(sizes) for sizes in zip(*shapes, strict=True))
        for name, shape in ((_A, (self.rank, largest_in)), (_B, (largest_out, self.rank))):
            if name not in file.tensors:
                raise InvalidAdapter(file.field, f"no {name}", "the projection with the vectors (save_projection)")
            file.check_shape(name, shape, f"rank {self.rank}, and the largest adapted module")

    def _source(self, biases: StoredBiases, module: str, projection: Projection | None) -> ModuleSource:
        """Without a projection it is a module of which nothing but the bias is changed."""
        file, parts = biases.file, biases.names[module]
        out_features, in_features = biases.base.linears[module]
        forms = biases.forms(module)
        if projection:
            forms["low_rank.a"] = (file.tensors[_A].dtype, (self.rank, in_features))
            forms["low_rank.b"] = ("F32", (out_features, self.rank))

        def compute() -> ModuleDelta:
            if not projection:
                return ModuleDelta(bias=biases.change(module))
            vectors = file.tensor(parts["vera_lambda_d"]), file.tensor(parts["vera_lambda_b"])
            term = vera_term(projection(_A)[:, :in_features], projection(_B)[:out_features], *vectors)
            return ModuleDelta(low_rank=term, bias=biases.change(module))

        return ModuleSource(tensors=converted(module, forms, compute), scale=1.0 if projection else None)


def vera_term(a: torch.Tensor, b: torch.Tensor, lambda_d: torch.Tensor, lambda_b: torch.Tensor) -> LowRank:
    """dW = diag(lambda_b) b diag(lambda_d) a: both vectors go into b, in float64."""
    return LowRank(a, lambda_b.double()[:, None] * b.double() * lambda_d.double(), 1.0)
