"""The same inside vLLM's model runner V2, which serves GPUs: one method makes the logits of a step and samples."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch

from polyad.kernels.fusion.fuser import Fuser, select_fuser
from polyad.serve.engine.fusing_runner import FusedBatch


class FusingRunnerV2:
    """Mixed into vLLM's model runner V2."""

    model: Any
    lora_manager: Any
    _steps: Any = ()
    _fused_batch: FusedBatch | None = None

    @cached_property
    def _fuser(self) -> Fuser:
        return select_fuser(self.lora_manager.backend)

    def execute_model(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        runner: Any = super()
        self._steps = getattr(scheduler_output, "polyad_fusion", ())
        return runner.execute_model(scheduler_output, *args, **kwargs)

    def sample(self, hidden_states: Any, input_batch: Any, grammar_output: Any) -> Any:
        runner: Any = super()
        if not self._steps:
            return runner.sample(hidden_states, input_batch, grammar_output)
        batch = FusedBatch(self._steps, {name: row for row, name in enumerate(input_batch.req_ids)})
        with self._fusing(batch):
            output, *counts = runner.sample(hidden_states, input_batch, grammar_output)
        batch.share_tokens(output.sampled_token_ids)
        self._fused_batch = batch
        return (output, *counts)

    def sample_tokens(self, grammar_output: Any) -> Any:
        runner: Any = super()
        output = runner.sample_tokens(grammar_output)
        batch, self._fused_batch = self._fused_batch, None
        return output if batch is None or output is None else batch.attach_records(output)

    @contextmanager
    def _fusing(self, batch: FusedBatch) -> Iterator[None]:
        """While it lasts, the model's logits are fused as soon as they are made, before a grammar's mask."""
        compute = self.model.compute_logits

        def fused(*args: Any, **kwargs: Any) -> torch.Tensor:
            return batch.fuse(compute(*args, **kwargs), self._fuser)

        self.model.compute_logits = fused
        try:
            yield
        finally:
            del self.model.compute_logits
