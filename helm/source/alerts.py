"""The alerts, in one list; each has a page in runbooks/ by its name. Only metrics that polyad or vLLM has today."""

from dataclasses import dataclass
from typing import Any

_FLEET = "namespace, service"
_WAITING = "vllm:num_requests_waiting_by_reason"
_LATENCY = "vllm:time_to_first_token_seconds_bucket"
# Other vLLM servers of the cluster have metrics by the same names.
_OURS = f"and on ({_FLEET}) sum by ({_FLEET}) (polyad_engine_up)"


@dataclass(frozen=True)
class Alert:
    """`holds` for so long before it fires."""

    name: str
    severity: str
    holds: str
    expression: str
    summary: str


def _waiting(reason: str) -> str:
    return f'sum by ({_FLEET}) ({_WAITING}{{reason="{reason}"}}) / count by ({_FLEET}) (polyad_engine_up)'


ALERTS = (
    Alert(
        "PolyadNoEngine", "critical", "1m", f"sum by ({_FLEET}) (polyad_engine_up) == 0",
        "No server of {{ $labels.service }} has a running engine: requests are answered with 503.",
    ),
    Alert(
        "PolyadEngineDown", "warning", "10m", "polyad_engine_up == 0",
        "The engine of {{ $labels.pod }} has not come back for ten minutes.",
    ),
    Alert(
        "PolyadEngineRestarts", "warning", "0m", "increase(polyad_engine_restarts_total[1h]) >= 3",
        "The engine of {{ $labels.pod }} died three times or more within an hour.",
    ),
    Alert(
        "PolyadRegistryAway", "critical", "5m", "polyad_registry_live == 0",
        "{{ $labels.pod }} does not reach Redis: it serves from memory and does not see changes of adapters.",
    ),
    Alert(
        "PolyadRegistrySplit", "warning", "10m",
        f"max by ({_FLEET}) (polyad_adapters) != min by ({_FLEET}) (polyad_adapters)",
        "Servers of {{ $labels.service }} do not know the same number of adapters.",
    ),
    Alert(
        "PolyadLoadsFail", "warning", "5m", f"sum by ({_FLEET}) (increase(polyad_load_failures_total[15m])) > 0",
        "Adapter versions of {{ $labels.service }} could not be loaded: requests for them fail.",
    ),
    Alert(
        "PolyadHostCacheThrashes", "warning", "15m", "rate(polyad_evictions_total[15m]) > 0.2",
        "{{ $labels.pod }} evicts a version from host memory every five seconds or faster.",
    ),
    Alert(
        "PolyadSlotsShort", "warning", "10m", f"{_waiting('deferred')} > 4",
        "More than four requests per server of {{ $labels.service }} wait for an adapter slot.",
    ),
    Alert(
        "PolyadQueueLong", "warning", "10m", f"{_waiting('capacity')} > 16",
        "More than sixteen requests per server of {{ $labels.service }} wait for room in the batch.",
    ),
    Alert(
        "PolyadFirstTokenSlow", "warning", "15m",
        f"histogram_quantile(0.95, sum by ({_FLEET}, le) (rate({_LATENCY}[10m]))) > 10 {_OURS}",
        "One request in twenty of {{ $labels.service }} waits more than ten seconds for its first token.",
    ),
    Alert(
        "PolyadKvCacheFull", "warning", "15m", f"max by ({_FLEET}) (vllm:kv_cache_usage_perc) > 0.95 {_OURS}",
        "A server of {{ $labels.service }} has its key-value cache full.",
    ),
)  # fmt: skip


def rules() -> dict[str, Any]:
    """Prometheus's groups of rules."""
    return {"groups": [{"name": "polyad", "rules": [_rule(alert) for alert in ALERTS]}]}


def _rule(alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expression,
        "for": alert.holds,
        "labels": {"severity": alert.severity},
        "annotations": {"summary": alert.summary, "runbook": f"helm/runbooks/{alert.name}.md"},
    }
