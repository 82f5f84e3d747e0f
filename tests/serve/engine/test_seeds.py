"""Seeded requests on CPU around the sampling of vLLM's model runner, which the test stands in for."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from vllm.v1.worker.cpu_model_runner import CPUModelRunner

from polyad.serve.engine.seeds import SeededCPUModelRunner

ROWS = 4


class Sampling:
    """What vLLM does with generators in a step: draws from each, then winds those of discarded rows back."""

    def __init__(self) -> None:
        self.draws: dict[int, list[float]] = {}
        self.fail = False

    def sample(self, runner: Any, *args: Any) -> tuple[Any, ...]:
        for row, generator in runner.input_batch.generators.items():
            self.draws.setdefault(row, []).append(float(torch.rand(1, generator=generator)))
        return args

    def bookkeep(self, runner: Any, *args: Any) -> tuple[Any, ...]:
        if self.fail:
            raise ValueError("the engine's own trouble")
        for row in np.nonzero(runner.discard_request_mask.np[: runner.input_batch.num_reqs])[0]:
            generator = runner.input_batch.generators.get(int(row))
            if generator is not None:
                generator.set_offset(generator.get_offset() - 4)
        return args


@pytest.fixture
def sampling(monkeypatch: pytest.MonkeyPatch) -> Sampling:
    sampling = Sampling()
    monkeypatch.setattr(CPUModelRunner, "_sample", lambda runner, *args: sampling.sample(runner, *args))
    monkeypatch.setattr(CPUModelRunner, "_bookkeeping_sync", lambda runner, *args: sampling.bookkeep(runner, *args))
    return sampling


def make_runner(seeds: dict[int, int], kind: type[CPUModelRunner] = SeededCPUModelRunner) -> Any:
    runner: Any = kind.__new__(kind)
    generators = {row: torch.Generator().manual_seed(seed) for row, seed in seeds.items()}
    runner.input_batch = SimpleNamespace(generators=generators, num_reqs=ROWS)
    # longer than the batch, as vLLM's is: what lies beyond is left from before
    runner.discard_request_mask = SimpleNamespace(np=np.array([False] * ROWS + [True] * ROWS))
    return runner


def step(runner: Any, discarded: set[int]) -> None:
    runner.discard_request_mask.np[:ROWS] = [row in discarded for row in range(ROWS)]
    assert runner._sample("logits") == ("logits",)
    assert runner._bookkeeping_sync("output") == ("output",)


def drawn(seed: int, count: int) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    return [float(torch.rand(1, generator=generator)) for _ in range(count)]


def test_vllms_own_runner_fails_on_a_seeded_chunk(sampling: Sampling) -> None:
    with pytest.raises(RuntimeError, match="offset"):
        step(make_runner({1: 5}, CPUModelRunner), {1})


def test_chunks_before_the_last_cost_no_draw(sampling: Sampling) -> None:
    runner = make_runner({0: 7, 1: 7, 3: 9})
    step(runner, {1, 2})
    step(runner, {1, 3})
    step(runner, set())
    assert sampling.draws[0] == drawn(7, 3)
    assert sampling.draws[1] == [drawn(7, 1)[0]] * 3
    assert sampling.draws[3] == [*drawn(9, 2), drawn(9, 2)[1]]
    step(runner, set())
    assert sampling.draws[1][2:] == drawn(7, 2)


def test_every_generator_is_back_in_its_row_after_the_step(sampling: Sampling) -> None:
    runner = make_runner({0: 1, 1: 2})
    before = dict(runner.input_batch.generators)
    step(runner, {0})
    assert runner.input_batch.generators == before
    sampling.fail = True
    runner.discard_request_mask.np[:ROWS] = True
    with pytest.raises(ValueError, match="own trouble"):
        runner._bookkeeping_sync("output")
    assert runner.input_batch.generators == before


def test_steps_without_seeds_read_no_mask(sampling: Sampling) -> None:
    runner = make_runner({})
    runner.discard_request_mask = None
    assert runner._sample("logits") == ("logits",)
