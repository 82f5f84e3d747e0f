"""How a fusion travels to the engine: in the leader's sampling parameters, from which the scheduler makes the others.

A fused request is one request to the front end: its first stream, the leader. The scheduler adds a follower for each
other stream, so a group is made, and lives, within one engine process, however a client asked for it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vllm.lora.request import LoRARequest

from polyad.adapters_store.errors import InvalidInput
from polyad.kernels.fusion.method import Linear, MeanProbabilities, Method, Search

KEY = "polyad_fusion"

_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in (Linear, MeanProbabilities, Search)}


@dataclass(frozen=True, slots=True)
class FusionRequest:
    """What the scheduler is told: the method, the composition of each stream behind the first, and by which number the
    front end knows what it is told of this request's fusion."""

    method: Method
    followers: tuple[LoRARequest | None, ...]
    trace: int


def attached(sampling_params: Any, method: Method, followers: Sequence[LoRARequest | None], trace: int) -> Any:
    """A copy of the leader's sampling parameters that carries its fusion."""
    copy = sampling_params.clone()
    fields = ("lora_name", "lora_int_id", "lora_path", "base_model_name")
    encoded = [None if one is None else {name: getattr(one, name) for name in fields} for one in followers]
    fusion = {"kind": type(method).__name__, "method": asdict(method), "followers": encoded, "trace": trace}
    copy.extra_args = {**(copy.extra_args or {}), KEY: fusion}
    return copy


def fusion_of(sampling_params: Any) -> FusionRequest | None:
    """What `attached` attached."""
    found = (getattr(sampling_params, "extra_args", None) or {}).get(KEY)
    if found is None:
        return None
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in found["method"].items()}
    followers = (None if one is None else LoRARequest(**one) for one in found["followers"])
    return FusionRequest(_KINDS[found["kind"]](**fields), tuple(followers), found["trace"])


def check_not_forged(sampling_params: Any) -> None:
    """Raise InvalidInput if a client sent what only `attached` may say."""
    if KEY in (getattr(sampling_params, "extra_args", None) or {}):
        raise InvalidInput("vllm_xargs", KEY, "names that are not polyad's own")
