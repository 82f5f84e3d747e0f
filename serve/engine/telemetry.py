"""What one request did, told to metrics and logs when it ends."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vllm.sampling_params import RequestOutputKind

from polyad.adapters_store.errors import PolyadError
from polyad.adapters_store.registry import Version
from polyad.serve.compose import Plan
from polyad.serve.engine import metrics
from polyad.serve.engine.busiest import OTHER, Busiest

logger = logging.getLogger(__name__)

BASE = "base"


class Observed:
    """One request, while it runs: `output` hears what vLLM says of it."""

    def __init__(self, sampling_params: Any) -> None:
        kind = getattr(sampling_params, "output_kind", None)
        self._cumulative = kind == RequestOutputKind.CUMULATIVE
        self.streamed = kind != RequestOutputKind.FINAL_ONLY
        self.began = time.monotonic()
        self.first: float | None = None
        self.prompt_tokens = 0
        self._generated: dict[int, int] = {}

    @property
    def generated_tokens(self) -> int:
        return sum(self._generated.values())

    def output(self, output: Any) -> None:
        self.prompt_tokens = len(output.prompt_token_ids or ()) or self.prompt_tokens
        for answer in output.outputs:
            before = 0 if self._cumulative else self._generated.get(answer.index, 0)
            self._generated[answer.index] = before + len(answer.token_ids)
        if self.first is None and self.generated_tokens:
            self.first = time.monotonic()


class Telemetry:
    """Labels are bounded: the busiest adapters of all tenants have their own, the others share one."""

    def __init__(self, labels: int) -> None:
        self._busiest = Busiest(labels, _forget)

    @contextmanager
    def request(self, request_id: str, tenant: str, plan: Plan | None, sampling_params: Any) -> Iterator[Observed]:
        """Observe a request of a tenant, for a plan or the base model, to its end."""
        labels = self._labels(self._busiest.label(_name(tenant, plan)))
        observed, kind = Observed(sampling_params), "none"
        metrics.requests.labels(*labels).inc()
        try:
            yield observed
        except GeneratorExit:
            kind = "Cancelled"
            raise
        except BaseException as error:
            kind = _kind(error)
            metrics.request_errors.labels(*labels, kind).inc()
            raise
        finally:
            self._finish(request_id, tenant, plan, observed, kind, labels)

    def loaded(self, version: Version) -> None:
        metrics.adapter_loads.labels(*self._of(version)).inc()

    def evicted(self, version: Version) -> None:
        metrics.adapter_evictions.labels(*self._of(version)).inc()

    def _of(self, version: Version) -> tuple[str, str]:
        return self._labels(self._busiest.current(f"{version.tenant}/{version.adapter}"))

    def _labels(self, label: str) -> tuple[str, str]:
        tenant, _, adapter = label.partition("/")
        return (tenant, adapter) if adapter else (OTHER, OTHER)

    def _finish(
        self, request_id: str, tenant: str, plan: Plan | None, seen: Observed, kind: str, labels: tuple[str, str]
    ) -> None:
        ended = time.monotonic()
        # The label may have gone to another meanwhile.
        labels = labels if labels[0] == OTHER else self._labels(self._busiest.current("/".join(labels)))
        metrics.prompt_tokens.labels(*labels).inc(seen.prompt_tokens)
        metrics.generated_tokens.labels(*labels).inc(seen.generated_tokens)
        if seen.first is not None and seen.streamed:
            metrics.first_token_seconds.labels(*labels).observe(seen.first - seen.began)
            if seen.generated_tokens > 1:
                per_token = (ended - seen.first) / (seen.generated_tokens - 1)
                metrics.token_seconds.labels(*labels).observe(per_token)
        logger.info(
            "request %s ended",
            request_id,
            extra={
                "request_id": request_id,
                "tenant": tenant,
                "adapter": plan.label if plan is not None else BASE,
                "prompt_tokens": seen.prompt_tokens,
                "generated_tokens": seen.generated_tokens,
                "seconds": round(ended - seen.began, 4),
                "error": None if kind == "none" else kind,
            },
        )


def _name(tenant: str, plan: Plan | None) -> str:
    if plan is None or not plan.versions:
        return f"{tenant}/{BASE}"
    owners = {version.tenant for version in plan.versions}
    owner = owners.pop() if len(owners) == 1 else tenant
    return f"{owner}/{'+'.join(dict.fromkeys(version.adapter for version in plan.versions))}"


def _kind(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, PolyadError):
            return type(cause).__name__
        cause = cause.__cause__
    return type(error).__name__


def _forget(label: str) -> None:
    metrics.forget(*label.split("/", 1))
