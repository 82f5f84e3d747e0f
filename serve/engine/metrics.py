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
