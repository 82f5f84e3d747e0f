"""Takes what the engine says of fusions out of its outputs, before vLLM makes answers of them."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

from polyad.serve.engine import metrics
from polyad.serve.engine.fusion_request import KEY

Record = list[float]


class FusionTraces:
    """One engine client's. Each fused request has a number, under which the records of its choices arrive."""

    def __init__(self, output_processor: Any) -> None:
        self._numbers = count(1)
        self._records: dict[int, defaultdict[int, list[Record]]] = {}
        self._output_processor = output_processor
        self._process = output_processor.process_outputs
        output_processor.process_outputs = self._process_outputs

    @contextmanager
    def trace(self) -> Iterator[int]:
        """A number for a request; its records are kept until it ends."""
        number = next(self._numbers)
        self._records[number] = defaultdict(list)
        metrics.fusion_groups.inc()
        try:
            yield number
        finally:
            del self._records[number]
            metrics.fusion_groups.dec()

    def take(self, number: int, choice: int, tokens: int) -> list[Record]:
        """The records of the next tokens of a choice."""
        records = self._records[number][choice]
        taken, records[:tokens] = records[:tokens], []
        return taken

    def _process_outputs(self, outputs: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        for output in outputs:
            if output.kv_transfer_params and KEY in output.kv_transfer_params:
                told = output.kv_transfer_params.pop(KEY)
                output.kv_transfer_params = output.kv_transfer_params or None
                self._keep(output.request_id, told)
        return self._process(outputs, *args, **kwargs)

    def _keep(self, request_id: str, told: dict[str, Any]) -> None:
        metrics.fusion_waits.inc(told["waited"])
        state = self._output_processor.request_states.get(request_id)
        if state is not None and told["trace"] in self._records:
            self._records[told["trace"]][state.request_index].append(told["record"])
