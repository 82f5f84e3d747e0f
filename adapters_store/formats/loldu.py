"""LoLDU (Shi et al. 2024, arXiv:2410.13618): the diagonal of a part of the base's LDU decomposition is trained.

    W = P L diag(D) U with unit triangular L and U; of the first r rows and columns, z and s are trained from z0 = D[:r]
    and s0 = lora_alpha / r, against W - s0 P L diag(z0) U:      dW = P L[:, :r] diag(s z - s0 z0) U[:r]

A format of polyad's own, of what the authors' code trains: `peft_type` LOLDU; in the config `r`, `lora_alpha` and
`init_method`, which must be lu; for each module `base_model.model.<module>.loldu_z` of shape [r] and `.loldu_s`
of shape [1]. L and U are computed again, in float64 on the CPU, and checked against W. Shape suffixes: R rank, I input
features, O output features, S min(O, I).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.delta import LowRank, ModuleDelta, ModuleSource
from polyad.adapters_store.errors import InvalidAdapter
from polyad.adapters_store.formats import config_values
from polyad.adapters_store.formats.config_keys import MODULES_TO_SAVE, ConfigKeys
from polyad.adapters_store.formats.conversion import Form, converted
from polyad.adapters_store.formats.own_kind import own_names
from polyad.adapters_store.formats.tensor_file import TensorFile
from polyad.adapters_store.formats.tensor_names import check_parts

LOLDU_KEYS = ConfigKeys(consumed=frozenset({"r", "lora_alpha", "init_method"}), unused={}, off=MODULES_TO_SAVE)

_DIAGONAL, _SCALE = "loldu_z", "loldu_s"
_MAX_ERROR = 1e-10
# relative to the largest: U is divided by them
_MIN_PIVOT = 1e-10


@dataclass(frozen=True)
class Loldu:
    rank: int
    initial_scale: float
    kind: ClassVar[str] = "loldu"
    index_suffixes: ClassVar[tuple[str, ...]] = ()
    needs_initial: ClassVar[bool] = False

    @classmethod
    def parse(cls, config: Mapping[str, object]) -> "Loldu":
        LOLDU_KEYS.check(config)
        if config.get("init_method") != "lu":
            allowed = "'lu'; with any other the untrained adapter is not the base model"
            raise InvalidAdapter("adapter_config.init_method", config.get("init_method"), allowed)
        rank = config_values.positive_integer("r", config.get("r"))
        return cls(rank, config_values.number("lora_alpha", config.get("lora_alpha")) / rank)

    def read(self, file: TensorFile, base: BaseModel, initial: TensorFile | None) -> dict[str, ModuleSource]:
        names = own_names(file, (_DIAGONAL, _SCALE), base)
        return {module: self._source(file, names[module], module, base) for module in sorted(names)}

    def _source(self, file: TensorFile, parts: Mapping[str, str], module: str, base: BaseModel) -> ModuleSource:
        check_parts(file, {module: dict(parts)}, module, (_DIAGONAL, _SCALE))
        out_features, in_features = base.linears[module]
        if self.rank > min(out_features, in_features):
            raise InvalidAdapter(
                "adapter_config.r", self.rank, f"at most {min(out_features, in_features)}, for {module}"
            )
        file.check_shape(parts[_DIAGONAL], (self.rank,), f"rank {self.rank}")
        file.check_shape(parts[_SCALE], (1,), "one number")

        def compute() -> ModuleDelta:
            z, s = file.tensor(parts[_DIAGONAL]), file.tensor(parts[_SCALE])
            return ModuleDelta(low_rank=loldu_term(module, base.weight(module), z, float(s), self.initial_scale))

        forms: dict[str, Form] = {
            "low_rank.a": ("F32", (self.rank, in_features)),
            "low_rank.b": ("F32", (out_features, self.rank)),
        }
        return ModuleSource(tensors=converted(module, forms, compute), scale=1.0)


def loldu_term(module: str, weight: torch.Tensor, z: torch.Tensor, s: float, initial_scale: float) -> LowRank:
    """`weight` is W of shape [out, in], `z` of shape [r]. Raises InvalidAdapter if W has no such decomposition."""
    w_OI = weight.double()
    lu_OI, pivots, _ = torch.linalg.lu_factor_ex(w_OI)
    rows, size = _permutation(pivots, len(w_OI)), min(w_OI.shape)
    l_OS = lu_OI[:, :size].tril(-1)
    l_OS.diagonal().fill_(1)
    u_SI = lu_OI[:size].triu()
    error = float((l_OS @ u_SI - w_OI[rows]).norm() / w_OI.norm())
    d_S = u_SI.diagonal()
    if not error <= _MAX_ERROR or not float(d_S.abs().min()) > _MIN_PIVOT * float(d_S.abs().max()):
        what = f"an LDU decomposition with error {error:.1e} and smallest pivot {float(d_S.abs().min()):.1e}"
        raise InvalidAdapter(module, what, "base weights that can be decomposed: these are nearly singular")
    z0_R = d_S[: len(z)]
    b_OR = torch.empty(len(w_OI), len(z), dtype=torch.float64)
    b_OR[rows] = l_OS[:, : len(z)] * (s * z.double() - initial_scale * z0_R)
    return LowRank(u_SI[: len(z)] / z0_R[:, None], b_OR, 1.0)


def _permutation(pivots: torch.Tensor, count: int) -> torch.Tensor:
    """Row i of L U is this row of W. LAPACK's pivots say, one after the other, which rows changed places, from 1."""
    rows = list(range(count))
    for place, pivot in enumerate(pivots.tolist()):
        rows[place], rows[pivot - 1] = rows[pivot - 1], rows[place]
    return torch.tensor(rows)
