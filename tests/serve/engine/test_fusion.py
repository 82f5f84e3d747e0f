"""What a fused request cannot have, by what the server's engine is configured for."""

from types import SimpleNamespace
from typing import Any

import pytest

from polyad.adapters_store.errors import InvalidInput, Unsupported
from polyad.kernels.fusion.method import static
from polyad.serve.compose import FusedStreams
from polyad.serve.engine.fusion import check_fusible
from polyad.serve.engine.fusion_report import FusionReport

FUSED: Any = FusedStreams("static", (None, None, None), static([0.5, 0.5]), "fuse(a, b)")  # type: ignore[arg-type]
PROMPT = {"type": "token", "prompt_token_ids": [1]}
PLAIN = SimpleNamespace(prompt_logprobs=None)


def config(seats: int = 8, speculative: object = None, sharded: bool = False) -> Any:
    return SimpleNamespace(
        speculative_config=speculative,
        scheduler_config=SimpleNamespace(max_num_seqs=seats),
        parallel_config=SimpleNamespace(enable_batch_sharded_sampling=sharded),
    )


def test_an_engine_that_can_fuse_refuses_nothing() -> None:
    check_fusible(FUSED, PROMPT, PLAIN, config(), FusionReport())


@pytest.mark.parametrize(
    ("engine", "named"),
    [(config(speculative=object()), "speculative decoding"), (config(sharded=True), "batch-sharded-sampling")],
)
def test_engines_that_keep_a_groups_logits_apart_refuse_it(engine: Any, named: str) -> None:
    with pytest.raises(Unsupported, match=named):
        check_fusible(FUSED, PROMPT, PLAIN, engine, None)


def test_more_streams_than_seats_are_refused() -> None:
    with pytest.raises(InvalidInput, match="at most 2"):
        check_fusible(FUSED, PROMPT, PLAIN, config(seats=2), None)


@pytest.mark.parametrize(
    ("prompt", "params", "report", "field"),
    [
        (PROMPT, SimpleNamespace(prompt_logprobs=1), None, "prompt_logprobs"),
        ({"type": "multimodal"}, PLAIN, None, "prompt"),
        (PROMPT, PLAIN, FusionReport(beams=True), "use_beam_search"),
    ],
)
def test_requests_that_one_text_cannot_answer_are_refused(prompt: Any, params: Any, report: Any, field: str) -> None:
    with pytest.raises(Unsupported, match=field):
        check_fusible(FUSED, prompt, params, config(), report)
