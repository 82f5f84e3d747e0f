"""The engine as the request handlers see it: vLLM's AsyncLLM, which understands plans."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from functools import cached_property
from typing import Any

from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from polyad.serve.compose import FusedStreams
from polyad.serve.engine.engine_errors import refuse_failed, refusing
from polyad.serve.engine.fusion import FusedAnswer, check_fusible
from polyad.serve.engine.fusion_report import current_report
from polyad.serve.engine.fusion_request import attached, check_not_forged
from polyad.serve.engine.fusion_traces import FusionTraces
from polyad.serve.engine.identity import PlannedRequest
from polyad.serve.engine.ownership import own
from polyad.serve.engine.residency import Residency
from polyad.serve.engine.structured import check_structured
from polyad.serve.engine.telemetry import Telemetry
from polyad.serve.service.access import current_caller


class AdapterEngine(AsyncLLM):
    """vLLM's engine client. A request for an adapter is sent on only when its version is in host memory."""

    residency: Residency
    weight_of: Callable[[str], float]
    telemetry: Telemetry
    supported_tasks: tuple[str, ...]

    @cached_property
    def _traces(self) -> FusionTraces:
        return FusionTraces(self.output_processor)

    async def generate(
        self,
        prompt: Any,
        sampling_params: Any = None,
        request_id: str = "",
        *args: Any,
        lora_request: LoRARequest | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[RequestOutput, None]:
        """As vLLM's, but `lora_request` may be a plan's handle, which holds its versions until the request ends.

        Raises Refused, for what the engine itself refuses and for what `Residency.lease` raises.
        """
        plan = lora_request.plan if isinstance(lora_request, PlannedRequest) else None
        tenant = current_caller.get().tenant
        with refusing(), self.telemetry.request(request_id, tenant, plan, sampling_params) as observed:
            check_structured(sampling_params)
            check_not_forged(sampling_params)
            if plan is not None and plan.fusion is not None:
                outputs = self._fused(plan.fusion, prompt, sampling_params, request_id, *args, **kwargs)
            else:
                outputs = self._plain(lora_request, prompt, sampling_params, request_id, *args, **kwargs)
            async with aclosing(outputs):
                async for output in outputs:
                    observed.output(output)
                    yield output

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Whatever asks the engine for something is sent by this one, pooling and each of `n` answers too.
        core: Any = self.engine_core
        self._send, core.add_request_async = core.add_request_async, self._send_owned

    async def _send_owned(self, request: Any) -> None:
        tenant = current_caller.get().tenant
        own(request, tenant, self.weight_of(tenant))
        await self._send(request)

    async def _add_request(self, request: Any, *args: Any, **kwargs: Any) -> None:
        try:
            await super()._add_request(request, *args, **kwargs)
        except BaseException:
            # It is registered already, and nobody will read what is said of it.
            await self.abort(request.request_id, internal=True)
            raise

    async def _plain(
        self, lora_request: LoRARequest | None, prompt: Any, sampling_params: Any, *args: Any, **kwargs: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        async with (
            self._resident(lora_request) as resident,
            # A client that went away must be gone from the engine before the version may leave it.
            aclosing(super().generate(prompt, sampling_params, *args, lora_request=resident, **kwargs)) as outputs,
        ):
            async for output in outputs:
                refuse_failed(output)
                yield output

    async def _fused(
        self, fused: FusedStreams, prompt: Any, sampling_params: Any, *args: Any, **kwargs: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        """The leader's outputs: what is done with the other streams, only the engine's own process knows."""
        report = current_report.get()
        check_fusible(fused, prompt, sampling_params, self.vllm_config, report)
        delta = sampling_params.output_kind == RequestOutputKind.DELTA
        async with self.residency.lease_all(fused.streams) as (first, *others):
            with self._traces.trace() as number:
                answer = FusedAnswer(fused, number, self._traces, report, sampling_params.n)
                params = attached(sampling_params, fused.method, others, number)
                async with aclosing(super().generate(prompt, params, *args, lora_request=first, **kwargs)) as outputs:
                    async for output in outputs:
                        if sampling_params.structured_outputs is not None:
                            refuse_failed(output)
                        answer.take(output, delta)
                        yield output

    @asynccontextmanager
    async def _resident(self, lora_request: LoRARequest | None) -> AsyncIterator[LoRARequest | None]:
        if not isinstance(lora_request, PlannedRequest):
            yield lora_request
            return
        async with self.residency.lease(lora_request.plan) as resident:
            yield resident
