"""How the engine knows a version.

vLLM compares adapters by name, keys slots by integer id and the prefix cache by name and path. All three are given per
version and never reused: name and path contain the digest, the id counts up for as long as the server lives.
"""

from itertools import count
from typing import Any

from vllm.lora.request import LoRARequest

from polyad.adapters_store.errors import Unsupported
from polyad.adapters_store.registry import Version
from polyad.serve.compose import Plan

# vLLM warms up with the ids 1 to max_loras; its model runner V2 keeps ids as int32.
_engine_ids = count(1_000_000)


class PlannedRequest(LoRARequest):
    """What the OpenAI handlers carry from resolving a model name to `generate`: a name, and the plan behind it."""

    plan: Any = None


def single_version(plan: Plan) -> Version:
    """The version of a plan that is one version, as it is. Raises Unsupported for any other plan."""
    if len(plan.terms) != 1 or plan.terms[0].weight != 1:
        raise Unsupported("model", plan.label, "one version with the weight 1; blends are not served yet")
    return plan.terms[0].version


def planned(plan: Plan) -> PlannedRequest:
    """The handle for a plan. Its integer id means nothing: `resident` gives the one that the engine sees."""
    version = single_version(plan)
    name = f"{version.tenant}/{plan.label}:{version.digest}"
    return PlannedRequest(lora_name=name, lora_int_id=1, lora_path=f"sha256:{version.digest}", plan=plan)


def resident(request: PlannedRequest) -> LoRARequest:
    """The request that the engine is given once the version is in host memory, with an id never used before."""
    return LoRARequest(lora_name=request.lora_name, lora_int_id=next(_engine_ids), lora_path=request.lora_path)
