"""How large the candidate's change is, beside its parent's and beside the weights that it changes."""

from typing import Any

import torch

from polyad.adapters_store.delta import Delta, norm
from polyad.adapters_store.delta.inner_products import module_norm
from polyad.serve.learn.gate.finding import Finding
from polyad.serve.learn.settings import GateSettings
from polyad.serve.learn.train.parent import low_rank_parts


def bounds(model: Any, parent: Delta, candidate: Delta, settings: GateSettings) -> Finding:
    """Every value finite, not all of a factor zero where the parent's was not, norms within their bounds."""
    problems = [f"{module} has values that are not finite" for module in _not_finite(candidate)]
    if problems:
        return Finding(check="bounds", passed=False, summary="; ".join(problems[:3]))
    ratio = _ratio(norm(candidate), norm(parent))
    shares = {module: _share(model, module, candidate) for module in candidate.modules}
    largest = max(shares, key=lambda module: shares[module])
    if ratio is not None and settings.max_norm_ratio is not None and ratio > settings.max_norm_ratio:
        problems.append(f"its norm is {ratio:.2f} times the parent's, at most {settings.max_norm_ratio:g} are allowed")
    if settings.max_weight_share is not None and shares[largest] > settings.max_weight_share:
        problems.append(f"{largest} is changed by {shares[largest]:.2f} of its norm")
    zeros = _zero_share(candidate)
    said = "no parent's norm" if ratio is None else f"{ratio:.2f} of the parent's norm"
    summary = "; ".join(problems) or f"{said}, at most {shares[largest]:.3f} of a module's weights ({largest})"
    evidence = {"norm": float(norm(candidate)), "ratio": ratio, "largest_share": shares[largest], "zeros": zeros}
    return Finding(check="bounds", passed=not problems, summary=summary, evidence=evidence)


def _not_finite(delta: Delta) -> list[str]:
    return [
        module
        for module, part in low_rank_parts(delta).items()
        if not (bool(torch.isfinite(part.a).all()) and bool(torch.isfinite(part.b).all()))
    ]


def _ratio(candidate: float, parent: float) -> float | None:
    return float(candidate / parent) if parent > 0 else None


def _share(model: Any, module: str, delta: Delta) -> float:
    weight = model.get_submodule(f"base_model.model.{module}").get_base_layer().weight
    return float(module_norm(delta.modules[module])) / max(1e-12, float(weight.detach().float().norm()))


def _zero_share(delta: Delta) -> float:
    parts = [factor for part in low_rank_parts(delta).values() for factor in (part.a, part.b)]
    return sum(int((one == 0).sum()) for one in parts) / sum(one.numel() for one in parts)
