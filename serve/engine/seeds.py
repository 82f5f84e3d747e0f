"""Per-request seeds on CPU, also when a prompt is prefilled in several chunks.

After a chunk that is not a prompt's last one, vLLM discards the sampled token and winds the request's generator back
by `set_offset`, which CPU generators do not have: one such request kills vLLM 0.32's engine. Here the generator's
state is kept from before the sampling instead.
"""

from typing import Any

import numpy as np
from vllm.v1.worker.cpu_model_runner import CPUModelRunner


class SeededCPUModelRunner(CPUModelRunner):
    """vLLM's CPU model runner, with seeded requests that survive chunked prefill."""

    def _discarded_generators(self) -> dict[int, Any]:
        generators = self.input_batch.generators
        if not generators:
            return {}
        discarded = np.nonzero(self.discard_request_mask.np[: self.input_batch.num_reqs])[0]
        return {int(row): generators[int(row)] for row in discarded if int(row) in generators}

    def _sample(self, *args: Any, **kwargs: Any) -> Any:
        before = [(generator, generator.get_state()) for generator in self._discarded_generators().values()]
        output = super()._sample(*args, **kwargs)
        for generator, state in before:
            generator.set_state(state)
        return output

    def _bookkeeping_sync(self, *args: Any, **kwargs: Any) -> Any:
        generators = self.input_batch.generators
        hidden = self._discarded_generators()
        for row in hidden:
            del generators[row]
        try:
            return super()._bookkeeping_sync(*args, **kwargs)
        finally:
            generators.update(hidden)
