"""The Grafana dashboard, from one list of panels."""

from dataclasses import dataclass
from typing import Any

_WIDTH = 8
_HEIGHT = 7
_COLUMNS = 24 // _WIDTH


@dataclass(frozen=True)
class Panel:
    """One graph: its title, its unit as Grafana calls it, and (expression, legend) of each line."""

    title: str
    unit: str
    lines: tuple[tuple[str, str], ...]
    text: str = ""


def _sum(metric: str, by: str = "pod") -> tuple[str, str]:
    return f"sum by ({by}) ({metric}{{{_SELECTOR}}})", f"{{{{{by}}}}}"


def _rate(metric: str, by: str = "pod") -> tuple[str, str]:
    return f"sum by ({by}) (rate({metric}{{{_SELECTOR}}}[$__rate_interval]))", f"{{{{{by}}}}}"


def _quantiles(histogram: str) -> tuple[tuple[str, str], ...]:
    inner = f"sum by (le) (rate({histogram}_bucket{{{_SELECTOR}}}[$__rate_interval]))"
    return tuple((f"histogram_quantile({q}, {inner})", f"p{round(100 * q)}") for q in (0.5, 0.95, 0.99))


_SELECTOR = 'namespace="$namespace", service="$service"'
_WAITING = "vllm:num_requests_waiting_by_reason"

PANELS = (
    Panel("Engines up", "short", (_sum("polyad_engine_up"),), "0 while an engine starts or restarts"),
    Panel("Registry live", "short", (_sum("polyad_registry_live"),), "0 while Redis is away: serving goes on"),
    Panel("Engine restarts", "short", (_rate("polyad_engine_restarts_total"),)),
    Panel("Requests running", "short", (_sum("vllm:num_requests_running"),)),
    Panel("Requests waiting", "short", (_sum(_WAITING, "reason"),), "deferred: mostly for an adapter slot"),
    Panel("Key-value cache in use", "percentunit", (_sum("vllm:kv_cache_usage_perc"),)),
    Panel("Time to first token", "s", _quantiles("vllm:time_to_first_token_seconds")),
    Panel("Time between tokens", "s", _quantiles("vllm:inter_token_latency_seconds")),
    Panel("Time in the queue", "s", _quantiles("vllm:request_queue_time_seconds")),
    Panel("Tokens generated", "short", (_rate("vllm:generation_tokens_total"),)),
    Panel("Requests finished", "reqps", (_rate("vllm:request_success_total", "finished_reason"),)),
    Panel("Preemptions", "short", (_rate("vllm:num_preemptions_total"),)),
    Panel("Versions in host memory", "short", (_sum("polyad_resident_versions"),)),
    Panel("Host memory of versions", "bytes", (_sum("polyad_resident_bytes"),)),
    Panel("Adapters in the registry", "short", ((f"max(polyad_adapters{{{_SELECTOR}}})", "adapters"),)),
    Panel("Time to load a version", "s", _quantiles("polyad_load_seconds")),
    Panel("Loads that failed", "short", (_rate("polyad_load_failures_total"),)),
    Panel("Versions evicted", "short", (_rate("polyad_evictions_total"),), "much of it: host_cache_bytes is small"),
)


def dashboard() -> dict[str, Any]:
    """Grafana's JSON. The data source is the reader's choice; namespace and service come from the metrics."""
    return {
        "title": "polyad",
        "uid": "polyad-fleet",
        "schemaVersion": 39,
        "tags": ["polyad"],
        "timezone": "",
        "time": {"from": "now-3h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [_source(), _variable("namespace", ""), _variable("service", 'namespace="$namespace"')]},
        "panels": [_panel(number, panel) for number, panel in enumerate(PANELS)],
    }


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "data source", "type": "datasource", "query": "prometheus"}


def _variable(name: str, selector: str) -> dict[str, Any]:
    query = f"label_values(polyad_engine_up{{{selector}}}, {name})"
    return {"name": name, "type": "query", "datasource": {"uid": "${source}"}, "query": query, "refresh": 2}


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(number, _COLUMNS)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "gridPos": {"h": _HEIGHT, "w": _WIDTH, "x": column * _WIDTH, "y": row * _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(65 + index), "expr": expression, "legendFormat": legend}
            for index, (expression, legend) in enumerate(panel.lines)
        ],
    }
