"""Intruder dimensions (arXiv 2410.21228): large singular vectors of the changed weights that the base's do not know.

Of the `count` largest left singular vectors u of W + D, those with max |<u, u0>| < `similarity` over all left singular
vectors u0 of W. Compared with single vectors: together they span everything.
"""

from typing import Any

import torch

from polyad.adapters_store.delta import Delta
from polyad.serve.learn.gate.finding import Finding
from polyad.serve.learn.settings import GateSettings
from polyad.serve.learn.train.parent import low_rank_parts

COUNT = 10
SIMILARITY = 0.5


def intruders(model: Any, candidate: Delta, settings: GateSettings) -> Finding:
    """Intruders a matrix, over all changed ones. A full SVD of each: minutes for large models."""
    counts = {}
    for module, part in low_rank_parts(candidate).items():
        weight = model.get_submodule(f"base_model.model.{module}").get_base_layer().weight.detach().float().cpu()
        counts[module] = count_intruders(weight, part.scale * (part.b.float() @ part.a.float()))
    mean = sum(counts.values()) / len(counts)
    limit = settings.max_intruders
    summary = f"{mean:.2f} intruders a matrix" + ("" if limit is None else f", at most {limit:g} are allowed")
    evidence = {"mean": mean, "modules": {module: count for module, count in counts.items() if count}}
    return Finding(
        check="intruders", passed=None if limit is None else mean <= limit, summary=summary, evidence=evidence
    )


def count_intruders(
    weight: torch.Tensor, change: torch.Tensor, count: int = COUNT, similarity: float = SIMILARITY
) -> int:
    """How many of the largest left singular vectors of `weight + change` are strangers to those of `weight`."""
    before, _, _ = torch.linalg.svd(weight, full_matrices=False)
    after, _, _ = torch.linalg.svd(weight + change, full_matrices=False)
    nearest = (after[:, :count].t() @ before).abs().amax(1)
    return int((nearest < similarity).sum())
