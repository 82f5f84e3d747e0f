"""What a fusion costs: 8 fused requests with two experts, against the 24 sequences that they are computed as.

Rounds alternate on one server, so that all see the same machine; a figure is the median of the rounds' ratios. What the
kernel takes is measured by itself, for vocabularies of several sizes, beside the time of the server's step; the exact
search in one pass, beside the naive one, which evaluates one candidate after another in torch.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from polyad.adapters_store.base_model import BaseModel
from polyad.kernels.fusion.fuser import Group, select_fuser
from polyad.kernels.fusion.method import Search
from polyad.serve.example import unpack_base_model
from tests.bench.adapters import RANK, TARGETS, push_to_polyad, write_same
from tests.bench.load import throughput
from tests.bench.machine import print_header, print_result
from tests.bench.servers import DTYPE, EAGER, ENGINE, polyad

GROUPS, EXPERTS = 8, 2
TOKENS = 24
ROUNDS = 5
VOCABULARIES = {"49k": 49_152, "128k": 128_256, "256k": 256_000}


def rates(url: str, names: Sequence[str]) -> dict[str, float]:
    """Ratios of tokens per second, counting each of a group's sequences, and the seconds of a fused step."""
    cases = {
        "plain": ([*names[:EXPERTS], "()"], GROUPS * (1 + EXPERTS)),
        "fused": ([f"fuse({', '.join(names[:EXPERTS])})"], GROUPS),
    }
    found: dict[str, list[float]] = {key: [] for key in cases}
    for models, requests in cases.values():
        throughput(url, models, requests, 2)
    for round_ in range(ROUNDS):
        for key, (models, requests) in cases.items():
            sequences = 1 + EXPERTS if key == "fused" else 1
            found[key].append(throughput(url, models, requests, TOKENS) * sequences)
            print(f"round {round_ + 1}   {key:6} {found[key][-1]:7.1f} sequences' tokens/s", flush=True)
    ratio = statistics.median(fused / plain for fused, plain in zip(found["fused"], found["plain"], strict=True))
    return {"throughput_ratio": ratio, "step_s": GROUPS * (1 + EXPERTS) / statistics.median(found["fused"])}


def seconds(work: Callable[[], object], rounds: int) -> float:
    """The median time of a call."""
    work()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def kernel_seconds(vocabulary: int, name: str, rounds: int) -> float:
    random = torch.Generator().manual_seed(1)
    base_GV = 3 * torch.randn(GROUPS, 1, vocabulary, generator=random)
    experts_GEV = base_GV + 0.5 * torch.randn(GROUPS, EXPERTS, vocabulary, generator=random)
    logits_RV = torch.cat([base_GV, experts_GEV], 1).reshape(-1, vocabulary)
    rows = torch.arange(len(logits_RV)).reshape(GROUPS, -1).tolist()
    groups = [Group(tuple(group), Search()) for group in rows]
    fuse = select_fuser(name)
    return seconds(lambda: fuse(logits_RV, groups), rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-models", type=Path, default=Path(".state/base-models"))
    model = unpack_base_model(parser.parse_args().base_models, print)
    settings = {
        "model": model.name,
        "dtype": DTYPE,
        "engine": " ".join([*ENGINE, EAGER]),
        "load": f"{GROUPS} fusions of the base and {EXPERTS} experts, {TOKENS} tokens",
        "rounds": ROUNDS,
        "rank": RANK,
        "targets": ", ".join(TARGETS),
    }
    print_header("fusion", settings)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        adapters = write_same(scratch, BaseModel.from_folder(model, model.name), EXPERTS)
        with polyad(model, scratch, "--slots", "4", "--max-rank", str(RANK)) as server:
            for name, path in adapters.items():
                push_to_polyad(server.url, name, path)
            result = rates(server.url, list(adapters))
    step_s = result.pop("step_s")
    kernel_s = {label: kernel_seconds(size, "cpu", 7) for label, size in VOCABULARIES.items()}
    for label, taken in kernel_s.items():
        # The step of this server, but for the kernel, and the kernel for another vocabulary.
        result[f"fusion_share_{label}"] = taken / (step_s - kernel_s["49k"] + taken)
        print(f"{label}: {1000 * taken:.1f} ms for {GROUPS} groups, a step takes {1000 * step_s:.0f} ms", flush=True)
    result["fusion_share"] = result["fusion_share_49k"]
    result["search_speedup"] = kernel_seconds(VOCABULARIES["49k"], "reference", 3) / kernel_s["49k"]
    print_result(result)


if __name__ == "__main__":
    main()
