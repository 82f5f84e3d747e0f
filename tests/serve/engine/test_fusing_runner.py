"""Fusion around the sampling of both of vLLM's model runners, which the test stands in for."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from vllm.v1.outputs import AsyncModelRunnerOutput

from polyad.kernels.fusion.method import MeanProbabilities, Search, static
from polyad.serve.engine.fusing_runner import FusingRunner
from polyad.serve.engine.fusing_runner_v2 import FusingRunnerV2
from polyad.serve.engine.lockstep import FusionStep

ROWS = {"plain": 0, "g": 3, "g/1": 1, "h/1": 2, "h": 4, "g/2": 5}
VOCABULARY = 50
STEPS = [FusionStep(("g", "g/1", "g/2"), static((0.5, 0.25))), FusionStep(("h", "h/1"), MeanProbabilities((0.5, 0.5)))]
FORBIDDEN = slice(0, 40)


class State(NamedTuple):
    scheduler_output: Any
    logits: torch.Tensor


class Pending(AsyncModelRunnerOutput):
    def __init__(self, output: Any) -> None:
        self._output = output

    def get_output(self) -> Any:
        return self._output


class RunnerV1:
    """Samples the likeliest token of each row, after a grammar's mask on the row of g."""

    later = False

    def sample_tokens(self, grammar_output: Any) -> Any:
        logits = self.execute_model_state.logits
        if grammar_output:
            logits[ROWS["g"], FORBIDDEN] = -torch.inf
        self.seen = logits.clone()
        self.tokens = self._sample(logits).sampled_token_ids
        return Pending(SimpleNamespace()) if self.later else SimpleNamespace()

    def _sample(self, logits: torch.Tensor) -> Any:
        return SimpleNamespace(sampled_token_ids=logits.argmax(1, keepdim=True))

    execute_model_state: Any = None


class RunnerV2:
    """The same, in the other's order of things."""

    later = False

    def execute_model(self, scheduler_output: Any) -> None:
        return None

    def sample(self, hidden_states: Any, input_batch: Any, grammar_output: Any) -> Any:
        logits = self.model.compute_logits(hidden_states)
        if grammar_output:
            logits[ROWS["g"], FORBIDDEN] = -torch.inf
        self.seen = logits.clone()
        return SimpleNamespace(sampled_token_ids=logits.argmax(1, keepdim=True)), "sampled", "rejected"

    def sample_tokens(self, grammar_output: Any) -> Any:
        batch = SimpleNamespace(req_ids=sorted(ROWS, key=ROWS.__getitem__))
        output, *rest = self.sample(self.hidden, batch, grammar_output)
        assert rest == ["sampled", "rejected"]
        self.tokens = output.sampled_token_ids
        return Pending(SimpleNamespace()) if self.later else SimpleNamespace()

    model: Any
    hidden: Any


class Model:
    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.clone()


class V1(FusingRunner, RunnerV1):
    pass


class V2(FusingRunnerV2, RunnerV2):
    pass


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def logits(request: pytest.FixtureRequest) -> torch.Tensor:
    return (4 * torch.randn(len(ROWS), VOCABULARY, generator=torch.Generator().manual_seed(3))).to(request.param)


@pytest.fixture(params=[V1, V2])
def runner(request: pytest.FixtureRequest) -> Any:
    runner = request.param()
    runner.lora_manager = SimpleNamespace(backend="cpu")
    return runner


def step(runner: Any, logits: torch.Tensor, steps: list[FusionStep] | None, grammar: object = None) -> Any:
    scheduled = SimpleNamespace() if steps is None else SimpleNamespace(polyad_fusion=steps)
    if isinstance(runner, V1):
        runner.input_batch = SimpleNamespace(req_id_to_index=ROWS)
        runner.execute_model_state = State(scheduled, logits.clone())
    else:
        runner.model, runner.hidden = Model(), logits
        runner.execute_model(scheduled)
    return runner.sample_tokens(grammar)


def test_leaders_rows_are_fused_and_followers_say_the_same(runner: Any, logits: torch.Tensor) -> None:
    output = step(runner, logits, STEPS)
    plain, g, g1, g2 = (logits[ROWS[name]].double() for name in ("plain", "g", "g/1", "g/2"))
    wanted = g + 0.5 * (g1 - g) + 0.25 * (g2 - g)
    assert torch.allclose(runner.seen[ROWS["g"]].double(), wanted, atol=1e-4)
    assert torch.equal(runner.seen[ROWS["plain"]].double(), plain)
    mean = logits[[ROWS["h"], ROWS["h/1"]]].double().softmax(1).mean(0).log()
    assert torch.allclose(runner.seen[ROWS["h"]].double(), mean, atol=1e-4)
    tokens = {name: int(runner.tokens[row]) for name, row in ROWS.items()}
    assert tokens["g"] == tokens["g/1"] == tokens["g/2"] == int(wanted.argmax())
    assert tokens["h"] == tokens["h/1"] == int(mean.argmax())
    assert tokens["plain"] == int(plain.argmax())
    assert output.polyad_fusion["g"][5:] == [0.25, 0.5, 0.25]
    assert output.polyad_fusion["h"][5:] == [0.5, 0.5]


def test_a_grammar_masks_the_fused_row_alone(runner: Any, logits: torch.Tensor) -> None:
    """A mask before the fusion would shift a search, and be lost in a mean of probabilities."""
    search = [FusionStep(("g", "g/1", "g/2"), Search())]
    free = step(runner, logits, search).polyad_fusion["g"]
    masked = step(runner, logits, search, grammar=True).polyad_fusion["g"]
    assert masked == free
    assert all(int(runner.tokens[ROWS[name]]) >= 40 for name in ("g", "g/1", "g/2"))


def test_output_that_comes_later_has_the_records_then(runner: Any, logits: torch.Tensor) -> None:
    runner.later = True
    output = step(runner, logits, STEPS)
    assert isinstance(output, AsyncModelRunnerOutput)
    assert output.get_output().polyad_fusion.keys() == {"g", "h"}


def test_steps_without_groups_are_vllms(runner: Any, logits: torch.Tensor) -> None:
    step(runner, logits, STEPS)
    for steps in (None, []):
        output = step(runner, logits, steps)
        assert torch.equal(runner.seen, logits)
        assert torch.equal(runner.tokens, logits.argmax(1, keepdim=True))
        assert not hasattr(output, "polyad_fusion")
