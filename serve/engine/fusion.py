"""Fused requests at the engine's front: what they may ask, and what is told of them."""

from typing import Any

from polyad.adapters_store.errors import EngineUnavailable, InvalidInput, Unsupported
from polyad.serve.compose import FusedStreams
from polyad.serve.engine import metrics
from polyad.serve.engine.fusion_report import FusionReport, saturated
from polyad.serve.engine.fusion_traces import FusionTraces


def check_fusible(fused: FusedStreams, prompt: Any, params: Any, config: Any, report: FusionReport | None) -> None:
    """Raise InvalidInput for what a fused request cannot have."""
    if report is not None and report.beams:
        raise Unsupported("use_beam_search", True, f"beam search without a fusion, not with {fused.label}")
    if getattr(params, "prompt_logprobs", None) is not None:
        raise Unsupported("prompt_logprobs", params.prompt_logprobs, "none with a fusion: each stream has its own")
    if not isinstance(prompt, dict) or prompt.get("type") not in (None, "token"):
        raise Unsupported("prompt", _kind(prompt), "text with a fusion")
    if config.speculative_config is not None:
        raise Unsupported("model", fused.label, "no fusion on a server with speculative decoding")
    # Each rank has the logits of its own share of the batch alone, and a group's may lie with several.
    if config.parallel_config.enable_batch_sharded_sampling:
        raise Unsupported("model", fused.label, "no fusion on a server with --enable-batch-sharded-sampling")
    seats = config.scheduler_config.max_num_seqs
    if len(fused.streams) > seats:
        raise InvalidInput("model", f"{len(fused.streams)} sequences", f"at most {seats} (--max-num-seqs)")


def _kind(prompt: Any) -> object:
    return prompt.get("type") if isinstance(prompt, dict) else type(prompt).__name__


class FusedAnswer:
    """One fused request's tokens, as they come."""

    def __init__(self, fused: FusedStreams, number: int, traces: FusionTraces, report: FusionReport | None, n: int):
        self._fused = fused
        self._number = number
        self._traces = traces
        self._report = report
        self._first = report.begin(fused, n) if report is not None else 0
        self._seen: dict[int, int] = {}

    def take(self, output: Any, delta: bool) -> None:
        """Report what the engine said of the new tokens of an output. Raises EngineUnavailable if it broke off."""
        for completion in output.outputs:
            if completion.finish_reason == "error":
                raise EngineUnavailable(f"{self._fused.label}: its sequences could not go on together")
            seen = 0 if delta else self._seen.get(completion.index, 0)
            new = len(completion.token_ids) - seen
            self._seen[completion.index] = len(completion.token_ids)
            records = self._traces.take(self._number, completion.index, new)
            metrics.fusion_tokens.labels(self._fused.mode).inc(len(records))
            metrics.fusion_saturated.labels(self._fused.mode).inc(sum(saturated(self._fused, one) for one in records))
            if self._report is not None:
                self._report.add(self._first + completion.index, records)
