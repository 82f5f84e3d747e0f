"""What merges cost: time and peak memory, against PEFT's delta-level merges and mergekit's, on the same adapters.

Each case runs in processes of its own with the same number of threads, after a merge of one small layer that is not
counted: libraries set themselves up in their first calls. PEFT's results are of the adapters' rank, so polyad is made
to compress to it there; mergekit's are whole matrices, so polyad's result is left as it is (sparse, exact) there.
mergekit gets its matrices ready made, base plus change; polyad and PEFT begin with factors.

The memory floor is the time that a copy of the inputs and the result takes, into memory that was written before; the
new memory floor, into memory that the system has yet to give, as a result is. Whoever looks at every element must
multiply the factors out: what torch takes for that alone is measured too. With --shapes 8b, layers are of Llama-3-8B's
shapes.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from polyad.adapters_store.delta import Delta, LowRank, ModuleDelta
from polyad.adapters_store.merge import Compress, Execution, Input, Recipe
from tests.bench.machine import print_header, print_result

RANK = 16
# PEFT's default is a square U: at 14,336 rows that takes longer than anybody waits, and is spared.
FULL_BELOW = 4096
# What takes longer is not measured again.
LONG_S = 8.0
DENSITY = 0.2
SHAPES = {
    "135m": {"hidden": 576, "inner": 1536, "key": 192},
    "8b": {"hidden": 4096, "inner": 14336, "key": 1024},
}
# Of polyad, PEFT (if it has it) and mergekit (if it has it).
METHODS: dict[str, tuple[dict[str, Any], str | None, str | None]] = {
    "ties": ({"density": DENSITY}, "ties_svd", "ties"),
    "dare_ties": ({"density": DENSITY}, "dare_ties_svd", "dare_ties"),
    "breadcrumbs": ({"keep": DENSITY, "drop_top": 0.01, "variant": "mergekit"}, None, "breadcrumbs"),
    "slerp": ({}, None, "slerp"),
    "recompress": ({}, "svd", None),
}

Result = dict[str, float]


def matrices(shapes: str, layers: int) -> dict[str, tuple[int, int]]:
    """Every linear layer of so many layers: (out, in)."""
    hidden, inner, key = SHAPES[shapes].values()
    kinds = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (key, hidden),
        "self_attn.v_proj": (key, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    return {f"model.layers.{layer}.{name}": shape for layer in range(layers) for name, shape in kinds.items()}


def adapters(linears: dict[str, tuple[int, int]], count: int) -> list[Delta]:
    made = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        modules = {
            module: ModuleDelta(
                low_rank=LowRank(
                    torch.randn(RANK, columns, generator=generator) * 0.05,
                    torch.randn(rows, RANK, generator=generator) * 0.02,
                    2.0,
                )
            )
            for module, (rows, columns) in linears.items()
        }
        made.append(Delta(modules))
    return made


def polyad(method: str, deltas: list[Delta], threads: int, rank: int | None) -> Callable[[], int]:
    options = dict(METHODS[method][0])
    variant = options.pop("variant", None)
    name = "linear" if method == "recompress" else method
    recipe = Recipe(
        method=name,
        variant=variant,
        inputs=tuple(Input(((str(place), 1.0),), 1.0) for place in range(len(deltas))),
        parameters=tuple(options.items()),
        compress=Compress(rank=rank) if rank else None,
    )
    sources = {str(place): delta for place, delta in enumerate(deltas)}
    return lambda: Execution(recipe=recipe, deltas=sources, threads=threads).run().delta.size


def peft(kind: str, deltas: list[Delta], linears: dict[str, tuple[int, int]]) -> Callable[[], int]:
    from peft import get_peft_model

    model = get_peft_model(_model(linears), _config())
    for place in range(1, len(deltas)):
        model.add_adapter(str(place), _config())
    for place, delta in enumerate(deltas):
        name = "default" if place == 0 else str(place)
        for module, change in delta.modules.items():
            layer: Any = model.get_submodule(f"base_model.model.{module}")
            assert change.low_rank is not None
            layer.lora_A[name].weight.data.copy_(change.low_rank.a)
            layer.lora_B[name].weight.data.copy_(change.low_rank.b)
    names = ["default", *map(str, range(1, len(deltas)))]

    def run() -> int:
        density = None if kind == "svd" else DENSITY
        model.add_weighted_adapter(
            names,
            [1.0] * len(names),
            "m",
            combination_type=kind,
            svd_rank=RANK,
            density=density,
            svd_full_matrices=linears["model.layers.0.mlp.up_proj"][0] < FULL_BELOW,
        )
        return sum(RANK * (rows + columns) * 4 for rows, columns in linears.values())

    return run


def _config() -> Any:
    from peft import LoraConfig

    return LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=2 * RANK, target_modules="all-linear")


def _model(linears: dict[str, tuple[int, int]]) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden = linears["model.layers.0.self_attn.q_proj"][0]
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=hidden,
        intermediate_size=linears["model.layers.0.mlp.up_proj"][0],
        num_hidden_layers=len(linears) // 7,
        num_attention_heads=hidden // 64,
        num_key_value_heads=linears["model.layers.0.self_attn.k_proj"][0] // 64,
    )
    return LlamaForCausalLM(config)


def mergekit(name: str, deltas: list[Delta], linears: dict[str, tuple[int, int]]) -> Callable[[], int]:
    from mergekit.merge_methods import registry
    from mergekit.merge_methods.base import TensorGroup
    from mergekit.merge_methods.slerp import slerp

    method: Any = registry.get(name)
    generator = torch.Generator().manual_seed(99)
    ids = list(range(len(deltas)))
    groups = []
    for module, shape in linears.items():
        base = torch.randn(shape, generator=generator) * 0.02
        tuned = []
        for delta in deltas:
            term = delta.modules[module].low_rank
            assert term is not None
            tuned.append(base + term.b @ term.a * term.scale)
        groups.append((base, tuned))
    parameters: dict[str, Any] = {"normalize": name == "ties", "rescale": name == "dare_ties", "int8_mask": False}
    parameters |= {"lambda": 1.0, "weight": dict.fromkeys(ids, 1.0), "density": dict.fromkeys(ids, DENSITY)}
    if name == "breadcrumbs":
        parameters["gamma"] = dict.fromkeys(ids, 0.01)

    def run() -> int:
        size = 0
        for base, tuned in groups:
            if name == "slerp":
                result = slerp(torch.tensor([0.5]), tuned[0].unsqueeze(0), tuned[1].unsqueeze(0))
            else:
                group = TensorGroup.from_tensors([base, *tuned], ids=["base", *ids], base_index=0)
                result = method.merge_group(group, **parameters)
            size += result.nbytes
        return size

    return run


def prepared(
    contender: str, method: str, linears: dict[str, tuple[int, int]], inputs: int, threads: int
) -> Callable[[], int]:
    """A merge that is ready to run."""
    deltas = adapters(linears, inputs)
    _, of_peft, of_mergekit = METHODS[method]
    if contender == "peft":
        return peft(str(of_peft), deltas, linears)
    if contender == "mergekit":
        return mergekit(str(of_mergekit), deltas, linears)
    return polyad(method, deltas, threads, RANK if contender == "polyad_low_rank" else None)


def case(contender: str, method: str, count: int, shapes: str, layers: int, threads: int) -> Result:
    """One measurement, in this process."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    inputs = 2 if method == "slerp" else count
    prepared(contender, method, matrices("135m", 1), inputs, threads)()
    linears = matrices(shapes, layers)
    run = prepared(contender, method, linears, inputs, threads)
    before = _memory("VmRSS")
    began = time.perf_counter()
    written = run()
    seconds = time.perf_counter() - began
    # Factors in float32.
    read = inputs * sum(4 * RANK * (rows + columns) for rows, columns in linears.values())
    return {"seconds": seconds, "peak_mib": (_memory("VmHWM") - before) / 2**10, "bytes": read + written}


def _memory(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1])


def copy_rate(into: Callable[[torch.Tensor], object]) -> float:
    """Bytes per second of a copy, read and written: the best of three."""
    source = torch.ones(64 * 2**20)
    best = 0.0
    for _ in range(3):
        began = time.perf_counter()
        into(source)
        best = max(best, 2 * source.nbytes / (time.perf_counter() - began))
    return best


def products_seconds(linears: dict[str, tuple[int, int]], count: int, threads: int) -> float:
    """What torch takes for the products B A of so many adapters alone, into memory that was written before."""
    torch.set_num_threads(threads)
    terms = [[one.low_rank for one in delta.modules.values() if one.low_rank] for delta in adapters(linears, count)]
    outs = [[torch.zeros(len(term.b), term.a.shape[1]) for term in terms[0]] for _ in terms]
    best = math.inf
    for _ in range(3):
        began = time.perf_counter()
        for some, targets in zip(terms, outs, strict=True):
            for term, out in zip(some, targets, strict=True):
                torch.mm(term.b, term.a, out=out)
        best = min(best, time.perf_counter() - began)
    return best


def measured(contender: str, method: str, count: int, options: argparse.Namespace) -> Result:
    """The median of several runs; what takes long is run less often."""
    command = [sys.executable, "-m", "tests.bench.bench_merge", "--case", contender, method, str(count)]
    command += ["--shapes", options.shapes, "--layers", str(options.layers), "--threads", str(options.threads)]
    results: list[Result] = []
    while len(results) < options.repeats and sum(one["seconds"] for one in results) < LONG_S:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        results.append(json.loads(done.stdout.strip().rpartition("\n")[2]))
    result = results[0] | {"seconds": statistics.median(one["seconds"] for one in results)}
    result["peak_mib"] = max(one["peak_mib"] for one in results)
    peak = f"{result['peak_mib']:8.0f} MiB peak"
    times = " ".join(f"{one['seconds']:.3f}" for one in results)
    print(f"{method:12} of {count}  {contender:16} {result['seconds']:8.3f} s {peak}  ({times})", flush=True)
    return result


def comparisons(options: argparse.Namespace) -> Iterator[tuple[str, float]]:
    target = torch.empty(64 * 2**20)
    rate, new_rate = copy_rate(target.copy_), copy_rate(torch.clone)
    print(f"copy         {rate / 2**30:.1f} GiB/s, {new_rate / 2**30:.1f} GiB/s into new memory")
    for method, (_, of_peft, of_mergekit) in METHODS.items():
        for count in (2,) if method == "slerp" else options.counts:
            key = f"{method}_{count}"
            if of_peft:
                ours = measured("polyad_low_rank", method, count, options)
                if not options.ours:
                    yield f"{key}_vs_peft", measured("peft", method, count, options)["seconds"] / ours["seconds"]
            if method != "recompress":
                ours = measured("polyad", method, count, options)
                if of_mergekit and not options.ours:
                    theirs = measured("mergekit", method, count, options)
                    yield f"{key}_vs_mergekit", theirs["seconds"] / ours["seconds"]
            yield f"{key}_vs_memory_floor", ours["seconds"] / (ours["bytes"] / rate)
            yield f"{key}_vs_new_memory_floor", ours["seconds"] / (ours["bytes"] / new_rate)
            if method == "ties":
                seconds = products_seconds(matrices(options.shapes, options.layers), count, options.threads)
                print(f"products     of {count}  torch.mm         {seconds:8.3f} s")
                yield f"products_{count}_vs_memory_floor", seconds / (ours["bytes"] / rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", choices=SHAPES, default="135m")
    parser.add_argument("--layers", type=int, default=4, help="of the model's; every contender has the same")
    parser.add_argument("--counts", type=int, nargs="+", default=[3, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="runs, of which the median counts")
    parser.add_argument("--ours", action="store_true", help="measure polyad alone")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        contender, method, count = options.case
        print(json.dumps(case(contender, method, int(count), options.shapes, options.layers, options.threads)))
        return
    settings = {"shapes": options.shapes, "layers": options.layers, "threads": options.threads, "rank": RANK}
    print_header("merge", {**settings, "density": DENSITY, "repeats": options.repeats})
    print_result(dict(comparisons(options)))


if __name__ == "__main__":
    main()
