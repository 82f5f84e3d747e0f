"""For whom a request runs, on its way through the engine.

The tenant is in the salt of the prefix cache: whatever a request asks, it shares cached prompts with its own tenant
alone, so that the time to a first token says nothing of what others asked, of the base model and of public adapters
too. The scheduler reads tenant and weight from headers that vLLM only carries along.
"""

from typing import Any

from polyad.serve.engine.composition import weights_of
from polyad.serve.engine.fair_share import Claim

_TENANT = "polyad-tenant"
_WEIGHT = "polyad-weight"


def own(request: Any, tenant: str, weight: float) -> None:
    """Write tenant and weight into a request for the engine (vLLM's EngineCoreRequest)."""
    # The name of a tenant holds no slash, so no salt of a client's makes it another's.
    request.cache_salt = f"{tenant}/{request.cache_salt or ''}"
    request.trace_headers = {**(request.trace_headers or {}), _TENANT: tenant, _WEIGHT: repr(weight)}


def claim_of(request: Any) -> Claim:
    """What the scheduler needs to know of a request (vLLM's Request)."""
    headers = request.trace_headers or {}
    adapter = ",".join(map(str, sorted(weights_of(request))))
    weight = float(headers.get(_WEIGHT, 1.0))
    return Claim(headers.get(_TENANT, ""), adapter, request.num_prompt_tokens, weight, request.priority)
