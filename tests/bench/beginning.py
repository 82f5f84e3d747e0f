"""Where learning begins: a LoRA that changes nothing yet."""

from collections.abc import Collection

import torch

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.delta import Delta, LowRank, ModuleDelta


def beginning(base: BaseModel, rank: int, targets: Collection[str]) -> Delta:
    """As PEFT begins: A at random, B zero; alpha is twice the rank."""
    generator = torch.Generator().manual_seed(0)
    modules = {}
    for module, (out_features, in_features) in base.linears.items():
        if module.rpartition(".")[2] in targets:
            a = torch.randn(rank, in_features, generator=generator) / in_features**0.5
            modules[module] = ModuleDelta(low_rank=LowRank(a, torch.zeros(out_features, rank), 2.0))
    return Delta(modules)
