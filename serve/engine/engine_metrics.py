"""vLLM's own metrics of an engine, with `vllm:lora_requests_info` as the Gateway's endpoint pickers read it.

vLLM names compositions as the engine knows them, by versions, weights and digests, and keeps a time series for every
set of them that ever ran together. Here the gauge names adapters as clients do, and there is one series: that of now.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from vllm.v1.metrics.loggers import PrometheusStatLogger
from vllm.v1.metrics.stats import SchedulerStats

from polyad.serve.engine.identity import label_of

_VERSION = re.compile(r"([a-z0-9][a-z0-9._/-]*)@v[0-9]+", re.ASCII)


class EngineMetrics(PrometheusStatLogger):
    """One for all engines of a server, as vLLM has it."""

    def record(self, scheduler_stats: SchedulerStats | None, *others: Any, **more: Any) -> None:
        if scheduler_stats is not None and self.gauge_lora_info is not None:
            scheduler_stats = replace(
                scheduler_stats,
                running_lora_adapters=_adapters(scheduler_stats.running_lora_adapters),
                waiting_lora_adapters=_adapters(scheduler_stats.waiting_lora_adapters),
            )
            self.gauge_lora_info.clear()
        super().record(scheduler_stats, *others, **more)


def _adapters(compositions: dict[str, int]) -> dict[str, int]:
    """How many requests each adapter is used by, from how many each composition has: those with none are left out."""
    found: dict[str, int] = {}
    for name, requests in compositions.items():
        for adapter in _named(label_of(name)) if requests else ():
            found[adapter] = found.get(adapter, 0) + requests
    return dict(sorted(found.items()))


def _named(label: str) -> Iterable[str]:
    return dict.fromkeys(_VERSION.findall(label))
