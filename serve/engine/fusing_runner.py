"""Fusion inside vLLM's model runner: logits of a group become one row, and the token of that row is everybody's.

The leader's row gets the fused logits before anything else looks at it: so grammars, biases, penalties, temperature and
log-probabilities are those of the fused distribution, and are applied once. What followers sampled is overwritten.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from vllm.v1.outputs import AsyncModelRunnerOutput

from polyad.kernels.fusion.fuser import Fuser, Group, select_fuser
from polyad.serve.engine.finite_cache import FiniteCacheRunner
from polyad.serve.engine.interruptible_runner import InterruptibleRunner
from polyad.serve.engine.lockstep import FusionStep
from polyad.serve.engine.seeds import SeededCPUModelRunner


class FusedBatch:
    """The groups of one step, by their rows in the batch."""

    def __init__(self, steps: Sequence[FusionStep], rows: dict[str, int]) -> None:
        self.leaders = [step.request_ids[0] for step in steps]
        self.groups = [Group(tuple(rows[name] for name in step.request_ids), step.method) for step in steps]
        self._leader_rows = [group.rows[0] for group in self.groups]
        self._records_GF: torch.Tensor | None = None

    def fuse(self, logits_RV: torch.Tensor, fuser: Fuser) -> torch.Tensor:
        """The logits, in float32, with the fused ones in the leaders' rows."""
        fused = fuser(logits_RV, self.groups)
        self._records_GF = fused.records_GF
        wide_RV = logits_RV.to(torch.float32)
        wide_RV[self._leader_rows] = fused.logits_GV
        return wide_RV

    def share_tokens(self, tokens_R1: torch.Tensor) -> None:
        """Give each leader's token to its followers, in place."""
        followers = [row for group in self.groups for row in group.rows[1:]]
        sources = [group.rows[0] for group in self.groups for _ in group.rows[1:]]
        tokens_R1[followers] = tokens_R1[sources]

    def attach_records(self, output: Any) -> Any:
        """The runner's output, which says what was found for each group."""
        if isinstance(output, AsyncModelRunnerOutput):
            return _Recorded(output, self)
        records = self._records_GF.tolist() if self._records_GF is not None else []
        lengths = (5 + len(group.rows) for group in self.groups)
        output.polyad_fusion = {
            name: record[:length] for name, record, length in zip(self.leaders, records, lengths, strict=True)
        }
        return output


class _Recorded(AsyncModelRunnerOutput):
    """An output that is still being computed."""

    def __init__(self, output: AsyncModelRunnerOutput, batch: FusedBatch) -> None:
        self._output = output
        self._batch = batch

    def get_output(self) -> Any:
        return self._batch.attach_records(self._output.get_output())


class FusingRunner:
    """Mixed into vLLM's model runner V1."""

    execute_model_state: Any
    input_batch: Any
    lora_manager: Any
    _fused_batch: FusedBatch | None = None

    @cached_property
    def _fuser(self) -> Fuser:
        return select_fuser(self.lora_manager.backend)

    def sample_tokens(self, grammar_output: Any) -> Any:
        runner: Any = super()
        state = self.execute_model_state
        steps = getattr(state.scheduler_output, "polyad_fusion", None) if state is not None else None
        if not steps or state.logits is None:
            return runner.sample_tokens(grammar_output)
        batch = FusedBatch(steps, self.input_batch.req_id_to_index)
        self.execute_model_state = state._replace(logits=batch.fuse(state.logits, self._fuser))
        self._fused_batch = batch
        try:
            return batch.attach_records(runner.sample_tokens(grammar_output))
        finally:
            self._fused_batch = None

    def _sample(self, *args: Any, **kwargs: Any) -> Any:
        runner: Any = super()
        output = runner._sample(*args, **kwargs)
        if self._fused_batch is not None:
            self._fused_batch.share_tokens(output.sampled_token_ids)
        return output


class FusingCPUModelRunner(FusingRunner, InterruptibleRunner, FiniteCacheRunner, SeededCPUModelRunner):
    """vLLM's CPU model runner, with fusions, with seeds, with steps that can be broken off, and a cache of numbers."""
