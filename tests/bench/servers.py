"""The servers that benchmarks compare, all up at once and asked in turns, so that all see the same machine."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from tests.fixtures.ports import free_port
from tests.fixtures.server import ServerProcess

# In bf16, a CPU without AVX-512 is so slow at the base model that nothing else would be seen.
DTYPE = "bfloat16" if torch.cpu._is_avx512_supported() else "float32"
ENGINE = ("--dtype", DTYPE, "--max-model-len", "2048", "--no-enable-prefix-caching")
EAGER = "--enforce-eager"

# One GiB for keys and values holds all that is asked at once, and leaves room for four servers.
_ALL = {"VLLM_CPU_KVCACHE_SPACE": "1"}
_STOCK = {**_ALL, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_NO_USAGE_STATS": "1"}


@contextmanager
def stock(model: Path, scratch: Path, *options: str) -> Iterator[ServerProcess]:
    """vLLM's own server."""
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--port", str(port)]
    command += ["--served-model-name", model.name, "--gpu-memory-utilization", "0.2", *ENGINE, *options]
    with _running(command, port, scratch, _STOCK, "/health") as server:
        yield server


@contextmanager
def polyad(model: Path, scratch: Path, *options: str) -> Iterator[ServerProcess]:
    """`polyad serve` with polyad's options."""
    port = free_port()
    state = scratch / f"state-{port}"
    state.mkdir(parents=True)
    command = [sys.executable, "-m", "polyad.serve.cli.main", "serve", str(model), "--port", str(port)]
    command += [
        "--grpc-port",
        "0",
        "--state-dir",
        str(state),
        *options,
        "--gpu-memory-utilization",
        "0.2",
        *ENGINE,
        EAGER,
    ]
    with _running(command, port, scratch, _ALL, "/ready") as server:
        yield server


def server_memory_mb(server: int) -> float:
    """Private bytes of the server's own process, without its engine."""
    return float(psutil.Process(server).memory_full_info().uss / 2**20)


def worker_memory(server: int) -> int:
    """Private bytes of the engine's worker, among the processes that a server started."""
    workers = [process for process in psutil.Process(server).children(recursive=True) if "Worker" in process.name()]
    return sum(int(process.memory_full_info().uss) for process in workers)


def peak_memory(server: int) -> int:
    """The most bytes that the engine's worker ever had resident (Linux: VmHWM)."""
    workers = [process for process in psutil.Process(server).children(recursive=True) if "Worker" in process.name()]
    lines = [line for worker in workers for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines()]
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


@contextmanager
def _running(
    command: Sequence[str], port: int, scratch: Path, environment: Mapping[str, str], ready: str
) -> Iterator[ServerProcess]:
    server = ServerProcess(command, port, scratch / f"{port}.log", environment)
    try:
        yield server.wait_ready(ready, seconds=600)
    finally:
        server.stop()
