"""How a plan travels to the engine: inside vLLM's LoRARequest, in a field that vLLM only carries along.

vLLM compares requests by `lora_name` and keys its prefix cache by name and path: both are given per resolved
composition. `lora_int_id` tells the compositions of a batch apart; which versions they weigh stands in
`base_model_name`, as "1000001*0.7,1000002*0.3".
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from vllm.lora.request import LoRARequest

_NOTHING: Mapping[int, float] = {}


def encode(terms: Sequence[tuple[int, float]]) -> str:
    """Engine ids and weights as text; weights keep every bit."""
    return ",".join(f"{engine_id}*{weight!r}" for engine_id, weight in terms)


def weights(request: LoRARequest | None) -> Mapping[int, float]:
    """The weight of each version, by engine id, in a request's composition; none for the base model."""
    return _decode(request.base_model_name) if request is not None and request.base_model_name else _NOTHING


@lru_cache(maxsize=4096)
def _decode(text: str) -> Mapping[int, float]:
    terms = (term.split("*") for term in text.split(","))
    return {int(engine_id): float(weight) for engine_id, weight in terms}
