"""polyad's own Prometheus series, beside vLLM's, on /metrics."""

from prometheus_client import Counter, Gauge, Histogram

resident_versions = Gauge("polyad_resident_versions", "Adapter versions in the engine's host memory.")
resident_bytes = Gauge("polyad_resident_bytes", "Bytes of adapter versions in the engine's host memory.")
load_seconds = Histogram(
    "polyad_load_seconds",
    "Seconds from the first request for a version to its being in host memory.",
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60),
)
load_failures = Counter("polyad_load_failures", "Loads into host memory that failed.")
evictions = Counter("polyad_evictions", "Versions evicted from host memory to make room.")
engine_up = Gauge("polyad_engine_up", "1 while the engine answers, 0 while it is starting or restarting.")
engine_restarts = Counter("polyad_engine_restarts", "Times the engine died and was started again.")
fusion_groups = Gauge("polyad_fusion_groups", "Fused requests that run or wait.")
fusion_tokens = Counter("polyad_fusion_tokens", "Tokens that were made of fused logits.", ["mode"])
fusion_saturated = Counter(
    "polyad_fusion_saturated", "Tokens whose weight was found at the end of its range.", ["mode"]
)
fusion_waits = Counter("polyad_fusion_waits", "Steps in which a sequence waited for others of its fusion.")
registry_live = Gauge("polyad_registry_live", "1 while Redis answers, 0 while requests are served from the snapshot.")
adapters = Gauge("polyad_adapters", "Adapters in the registry.")

_ADAPTER = ("tenant", "adapter")
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

requests = Counter("polyad_requests", "Requests for inference.", _ADAPTER)
request_errors = Counter(
    "polyad_request_errors", "Requests that ended with an error, by its kind.", (*_ADAPTER, "kind")
)
prompt_tokens = Counter("polyad_prompt_tokens", "Tokens of prompts.", _ADAPTER)
generated_tokens = Counter("polyad_generated_tokens", "Tokens of answers.", _ADAPTER)
first_token_seconds = Histogram(
    "polyad_first_token_seconds", "Seconds from a request to the first token of its answer.", _ADAPTER, buckets=_SECONDS
)
token_seconds = Histogram(
    "polyad_token_seconds", "Seconds per token behind the first, by request.", _ADAPTER, buckets=_SECONDS
)
adapter_loads = Counter("polyad_adapter_loads", "Loads of an adapter's versions into host memory.", _ADAPTER)
adapter_evictions = Counter("polyad_adapter_evictions", "Evictions of an adapter's versions from it.", _ADAPTER)

_BY_ADAPTER = (
    requests,
    prompt_tokens,
    generated_tokens,
    first_token_seconds,
    token_seconds,
    adapter_loads,
    adapter_evictions,
    request_errors,
)


def forget(tenant: str, adapter: str) -> None:
    """End the series of an adapter that is not named any more."""
    for metric in _BY_ADAPTER:
        metric.remove_by_labels({"tenant": tenant, "adapter": adapter})
