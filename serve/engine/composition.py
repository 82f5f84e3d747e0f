"""How a plan travels to the engine: inside vLLM's LoRARequest, in a field that vLLM only carries along.

vLLM compares requests by `lora_name` and keys its prefix cache by name and path: both are given per resolved
composition. `lora_int_id` tells the compositions of a batch apart; which versions they weigh stands in
`base_model_name`, as "1000001*0.7,1000002*0.3".
"""

from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

from vllm.lora.request import LoRARequest
from vllm.v1.request import Request

_NOTHING: Mapping[int, float] = {}
# Of the requests that there are: the scheduler looks at each in every step, and nothing is kept of those that ended.
_OF_REQUESTS: WeakKeyDictionary[Request, Mapping[int, float]] = WeakKeyDictionary()


def encode(terms: Sequence[tuple[int, float]]) -> str:
    """Engine ids and weights as text; weights keep every bit."""
    return ",".join(f"{engine_id}*{weight!r}" for engine_id, weight in terms)


def weights(request: LoRARequest | None) -> Mapping[int, float]:
    """The weight of each version, by engine id, in a request's composition; none for the base model."""
    if request is None or not request.base_model_name:
        return _NOTHING
    terms = (term.split("*") for term in request.base_model_name.split(","))
    return {int(engine_id): float(weight) for engine_id, weight in terms}


def weights_of(request: Request) -> Mapping[int, float]:
    """The same for a request in the engine's scheduler."""
    found = _OF_REQUESTS.get(request)
    if found is None:
        found = _OF_REQUESTS[request] = weights(request.lora_request)
    return found
