"""LoRAX's `merged_adapters`, for its clients: the same composition as an expression says it.

    {"ids": ["a", "b"], "weights": [0.7, 0.3], "merge_strategy": "ties", "density": 0.2, "majority_sign_method":
    "total"}

LoRAX merges the factors A and B apart from each other; here dW is merged. Its TIES divides by a count, as PEFT's does
(variant peft), and its DARE is scaled by the density, as published.
"""

from polyad.adapters_store.errors import InvalidInput
from polyad.serve.compose import Expression, Merge, from_json
from polyad.serve.compose.bounds import MAX_TERMS

KEY = "merged_adapters"

_KEYS = frozenset({"ids", "weights", "merge_strategy", "density", "majority_sign_method"})
_STRATEGIES = ("linear", "ties", "dare_linear", "dare_ties")
_SIGNS = ("total", "frequency")


def expression_of(value: object) -> str:
    """The text of the composition. Raises InvalidInput, naming the place."""
    if not isinstance(value, dict) or value.keys() - _KEYS or "ids" not in value:
        came = sorted(map(str, value)) if isinstance(value, dict) else type(value).__name__
        raise InvalidInput(KEY, came, f"an object of {', '.join(sorted(_KEYS))}")
    parts = _parts(value)
    strategy = _choice(value, "merge_strategy", _STRATEGIES)
    if strategy == "linear":
        return str(from_json({"blend": parts}, KEY))
    options: dict[str, object] = {"variant": "peft"}
    if value.get("density") is not None:
        options["density"] = value["density"]
    if strategy != "dare_linear":
        options["sign"] = _choice(value, "majority_sign_method", _SIGNS)
    expression: Expression = from_json({"merge": strategy, "of": parts, "options": options}, KEY)
    if not isinstance(expression, Merge):
        raise InvalidInput(KEY, strategy, "a merge")
    return str(expression)


def _parts(value: dict[str, object]) -> list[dict[str, object]]:
    ids, weights = value["ids"], value.get("weights")
    if not isinstance(ids, list) or not 1 <= len(ids) <= MAX_TERMS:
        raise InvalidInput(f"{KEY}.ids", type(ids).__name__, f"an array of 1 to {MAX_TERMS} adapters")
    if weights is None or weights == []:
        weights = [1] * len(ids)
    if not isinstance(weights, list) or len(weights) != len(ids):
        raise InvalidInput(f"{KEY}.weights", weights, f"an array of {len(ids)} numbers, one for each id")
    parts: list[dict[str, object]] = []
    for place, (name, weight) in enumerate(zip(ids, weights, strict=True)):
        if not isinstance(name, str):
            raise InvalidInput(f"{KEY}.ids.{place}", type(name).__name__, "the name of an adapter")
        adapter, at, version = name.partition("@")
        parts.append({"adapter": adapter, "weight": weight} | ({"at": version} if at else {}))
    return parts


def _choice(value: dict[str, object], key: str, choices: tuple[str, ...]) -> str:
    chosen = value.get(key) or choices[0]
    if chosen not in choices:
        raise InvalidInput(f"{KEY}.{key}", chosen, ", ".join(choices))
    return str(chosen)
