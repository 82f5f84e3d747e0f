"""The worker's side, around a model runner that the test stands in for."""

from types import SimpleNamespace
from typing import Any

import pytest

from polyad.serve.engine.interruptible_runner import InterruptibleRunner
from polyad.serve.engine.interruption import Mark, SharedNumber

LAYERS = 4


class Layer:
    def __init__(self) -> None:
        self.impl = SimpleNamespace(forward=lambda hidden: hidden + 1)


class Model:
    """Attention in each layer; `before` is called before each."""

    def __init__(self) -> None:
        self.layers = {f"layers.{place}": Layer() for place in range(LAYERS)}
        self.compilation_config = SimpleNamespace(static_forward_context={**self.layers, "moe": object()})
        self.before: Any = lambda place: None

    def load_model(self) -> None:
        pass

    def execute_model(self, scheduler_output: Any) -> int:
        hidden = 0
        for place, layer in enumerate(self.layers.values()):
            self.before(place)
            hidden = layer.impl.forward(hidden)
        return hidden


class Runner(InterruptibleRunner, Model):
    pass


@pytest.fixture
def runner() -> Any:
    runner = Runner()
    runner.load_model()
    return runner


def step(mark: Mark | None) -> Any:
    return SimpleNamespace(num_scheduled_tokens={"a": 1, "b": 1}, polyad_mark=mark)


@pytest.mark.parametrize("place", range(LAYERS))
def test_a_step_ends_at_the_layer_where_its_number_is_seen(runner: Any, place: int) -> None:
    number, seen = SharedNumber(), []

    def before(at: int) -> None:
        seen.append(at)
        if at == place:
            number.write(7)

    runner.before = before
    output = runner.execute_model(step(Mark(7, number.path)))
    assert (output.polyad_broken_off, output.sampled_token_ids, output.req_ids) == (True, [], ["a", "b"])
    assert seen == list(range(place + 1))
    assert runner.broken_off == 1
    # the next one has a number of its own, and one that may not be broken off has none
    assert runner.execute_model(step(Mark(8, number.path))) == LAYERS
    assert runner.execute_model(step(None)) == LAYERS
    assert runner.execute_model(SimpleNamespace()) == LAYERS


def test_an_engine_whose_number_cannot_be_seen_goes_on(runner: Any, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        assert runner.execute_model(step(Mark(1, "/proc/self/fd/99999"))) == LAYERS
    assert [record.message for record in caplog.records] == [
        "steps of this engine are not broken off: [Errno 2] No such file or directory: '/proc/self/fd/99999'"
    ]
