"""How the engine knows a version, and a composition of versions.

The prefix cache is keyed by name and path, both of which contain the composition's key: digests and exact weights. Ids
count up for as long as the server lives, and are never used again.
"""

from collections.abc import Sequence
from itertools import count
from typing import Any

from vllm.lora.request import LoRARequest

from polyad.serve.compose import Plan
from polyad.serve.engine.composition import encode

# vLLM warms up with the ids 1 to max_loras; its model runner V2 keeps ids as int32.
_ids = count(1_000_000)


class PlannedRequest(LoRARequest):
    """What the OpenAI handlers carry from resolving a model name to `generate`: a name, and the plan behind it."""

    plan: Any = None


def planned(plan: Plan) -> PlannedRequest:
    """The handle for a plan. Its integer id means nothing: `composed` gives the one that the engine sees."""
    return PlannedRequest(lora_name=_name(plan), lora_int_id=1, lora_path=plan.key, plan=plan)


def composed(plan: Plan, composition_id: int, engine_ids: Sequence[int]) -> LoRARequest:
    """The request that the engine is given once the versions, in the plan's order, are in host memory."""
    terms = [(engine_id, term.weight) for engine_id, term in zip(engine_ids, plan.terms, strict=True)]
    return LoRARequest(
        lora_name=_name(plan), lora_int_id=composition_id, lora_path=plan.key, base_model_name=encode(terms)
    )


def new_id() -> int:
    """An id that no version and no composition had before."""
    return next(_ids)


def label_of(name: str) -> str:
    """The label of the plan that the engine knows by this name."""
    # No label has a colon: neither names nor weights do.
    return name.partition(":")[0]


def _name(plan: Plan) -> str:
    return f"{plan.label}:{plan.key}"
