"""The worker's side of a step that is broken off: looks, at each layer's attention, whether it is to go on."""

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

from vllm.v1.outputs import ModelRunnerOutput

from polyad.serve.engine.interruption import Mark, NumberReader

logger = logging.getLogger(__name__)


class StepBrokenOff(Exception):
    """Never leaves the runner."""


class InterruptibleRunner:
    """Mixed into vLLM's model runner V1."""

    compilation_config: Any
    broken_off = 0
    _mark: Mark | None = None
    _reader: NumberReader | None = None
    _blind = False

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        runner: Any = super()
        runner.load_model(*args, **kwargs)
        for layer in self.compilation_config.static_forward_context.values():
            if (attention := getattr(layer, "impl", None)) is not None:
                attention.forward = self._looking(attention.forward)

    def execute_model(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        runner: Any = super()
        self._mark = self._seen(getattr(scheduler_output, "polyad_mark", None))
        if self._mark is None:
            return runner.execute_model(scheduler_output, *args, **kwargs)
        try:
            return runner.execute_model(scheduler_output, *args, **kwargs)
        except StepBrokenOff:
            self.broken_off += 1
            return nothing_said(scheduler_output)
        finally:
            self._mark = None

    def _seen(self, mark: Mark | None) -> Mark | None:
        """The mark, if its number can be looked at."""
        if mark is None or self._blind:
            return None
        if self._reader is None:
            try:
                self._reader = NumberReader(mark.path)
            except OSError as error:
                self._blind = True
                logger.warning("steps of this engine are not broken off: %s", error)
                return None
        return mark

    def _looking(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(forward)
        def attention(*args: Any, **kwargs: Any) -> Any:
            if self._mark is not None and self._reader is not None and self._reader.read() == self._mark.step:
                raise StepBrokenOff
            return forward(*args, **kwargs)

        return attention


def nothing_said(scheduler_output: Any) -> Any:
    """What a step that was broken off says: no token of any request."""
    names = list(scheduler_output.num_scheduled_tokens)
    output: Any = ModelRunnerOutput(names, {name: row for row, name in enumerate(names)})
    output.polyad_broken_off = True
    return output
