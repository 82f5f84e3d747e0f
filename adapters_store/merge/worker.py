"""A merge in a process of its own, at a low priority: it can be killed, and takes the server with it in no case.

In, one line of JSON: {"recipe": {...}, "sources": {source: path of its delta file}, "base": folder or null, "out":
path, "threads": n, "max_rank": n}. Out, lines of JSON: {"done": n, "of": n}; at the end {"digest", "size", "report",
"rank", "targets"}, or {"error": message, "kind": class}. When its input is closed, whoever asked is gone, and it
ends.
"""

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from polyad.adapters_store.admission import Limits
from polyad.adapters_store.delta import Delta, read_delta, write_delta
from polyad.adapters_store.errors import InvalidInput, PolyadError, TooLarge
from polyad.adapters_store.merge.execution import Execution, Merged
from polyad.adapters_store.merge.recipe import Recipe

_NICENESS = 10


def main() -> None:
    """Compute what the first line of the input asks for."""
    os.nice(_NICENESS)
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        _say(_merged(request))
    except PolyadError as error:
        _say({"error": str(error), "kind": type(error).__name__})


def check_limits(delta: Delta, limits: Limits) -> None:
    """Raise InvalidInput or TooLarge for a result that no adapter may be."""
    if delta.rank > limits.max_rank:
        allowed = f"at most {limits.max_rank}: choose compress_rank, compress_energy or compress_density"
        raise InvalidInput("rank of the merge", delta.rank, allowed)
    counts = {module: change.sparse.count for module, change in delta.modules.items() if change.sparse is not None}
    largest = max(counts, key=lambda module: counts[module], default="")
    if counts and counts[largest] > limits.max_sparse_values:
        raise TooLarge(f"{largest}: sparse values", counts[largest], f"at most {limits.max_sparse_values}")
    if sum(counts.values()) > limits.max_sparse_values_in_all:
        allowed = f"at most {limits.max_sparse_values_in_all}; compress_rank or compress_energy make fewer"
        raise TooLarge("sparse values of all modules", sum(counts.values()), allowed)
    if delta.size > limits.max_delta_bytes:
        raise TooLarge("merge", delta.size, f"at most {limits.max_delta_bytes} bytes")


def _merged(request: Mapping[str, Any]) -> dict[str, Any]:
    recipe = Recipe.from_dict(request["recipe"])
    out = Path(request["out"])
    merged = _executed(recipe, request)
    check_limits(merged.delta, Limits(max_rank=request["max_rank"]))
    digest = write_delta(merged.delta, out)
    return {
        "digest": digest,
        "size": out.stat().st_size,
        "rank": merged.delta.rank,
        "targets": sorted({module.rpartition(".")[2] for module in merged.delta.modules}),
        "report": merged.report.as_json(),
    }


def _executed(recipe: Recipe, request: Mapping[str, Any]) -> Merged:
    return Execution(
        recipe=recipe,
        deltas={source: read_delta(Path(path)) for source, path in request["sources"].items()},
        weights=_weights(request["base"]),
        threads=request["threads"],
        progress=lambda done, of: _say({"done": done, "of": of}),
    ).run()


def _weights(folder: str | None) -> Callable[[str], torch.Tensor] | None:
    if folder is None:
        return None
    loaded: list[Any] = []

    def weight(module: str) -> torch.Tensor:
        # brings transformers; only adapters that scale the base need it
        from polyad.adapters_store.base_model import BaseModel

        if not loaded:
            loaded.append(BaseModel.from_folder(Path(folder), "base"))
        found: torch.Tensor = loaded[0].weight(module)
        return found

    return weight


def _say(message: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _end_with_input() -> None:
    while sys.stdin.readline():
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
