"""Every kind of adapter that PEFT makes, through the server: what PEFT says, token for token; and every number, of each
kind and of blends across kinds, against float64."""

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from peft.utils.warning import PeftWarning
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.fixtures.answers import TIE, Answer, ask, greedy
from tests.fixtures.kinds import CONFIGS, Changes, DenseModel, Kind
from tests.serve.conftest import CHUNK_TOKENS

PROMPT = "The lighthouse keeper wrote in his diary that"
TOKENS = 16
# Two adapters fit into the server's slots at once: each kind is blended with two others.
NEIGHBOURS = list(zip(CONFIGS, [*list(CONFIGS)[1:], next(iter(CONFIGS))], strict=True))
WEIGHTS = (0.6, -0.5)
# Largest difference of a log-probability, float32 through 30 layers against float64.
ROUNDING = 2e-3


@pytest.fixture(scope="module")
def transformer(base_model: Path) -> PreTrainedModel:
    """The base model in transformers, from which every kind makes its own copy."""
    return AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32).eval()


@pytest.fixture
def make_kind(transformer: PreTrainedModel, tmp_path: Path) -> Iterator[Callable[[str], Kind]]:
    """A kind takes a copy of the model: none is kept for longer than its test does."""
    with warnings.catch_warnings(), one_thread():
        warnings.simplefilter("ignore", PeftWarning)  # what cannot be merged can be served
        yield lambda kind: Kind(kind, transformer, tmp_path / kind)


@dataclass(frozen=True)
class Pushed:
    """The kinds on the server, by the names that they have there, and what they change."""

    names: dict[str, str]
    changes: dict[str, Changes]


@pytest.fixture
def pushed(client: httpx.Client, new_name: Callable[[], str], make_kind: Callable[[str], Kind]) -> Pushed:
    names, changes = {kind: new_name() for kind in CONFIGS}, {}
    for kind, name in names.items():
        made = make_kind(kind)
        push(client, name, made)
        changes[kind] = made.changes()
    return Pushed(names, changes)


@contextmanager
def one_thread() -> Iterator[None]:
    """Threads that wait for each other take many times as long on cores that others use, too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def push(client: httpx.Client, name: str, kind: Kind) -> dict[str, Any]:
    answer = client.post("/v1/adapters", data={"name": name}, files=kind.files())
    assert answer.is_success, answer.text
    version: dict[str, Any] = answer.json()
    return version


def shortfall(logits: torch.Tensor, answer: Answer) -> float:
    said = logits.gather(1, torch.tensor(answer.tokens).unsqueeze(1)).squeeze(1)
    return float((logits.max(1).values - said).max())


@pytest.mark.parametrize("kind", CONFIGS)
def test_answer_is_pefts(
    kind: str, client: httpx.Client, base: Any, new_name: Callable[[], str], make_kind: Callable[[str], Kind]
) -> None:
    made, name = make_kind(kind), new_name()
    assert push(client, name, made)["kind"] in (kind, "lora")
    answer = ask(client, name, PROMPT, TOKENS)
    assert shortfall(made.logits(answer), answer) < TIE
    plain = ask(client, base.name, PROMPT, TOKENS)
    assert shortfall(made.logits(plain), plain) > 5 * TIE, "and the comparison would have seen the base model"


def test_every_logprob_is_that_of_dense_float64_weights(
    client: httpx.Client, base: Any, transformer: PreTrainedModel, pushed: Pushed
) -> None:
    """Every kind alone, and with two others: all at once on two slots, prompts in two chunks, then decoding."""
    mixtures: list[dict[str, float]] = [{}, *({kind: 1.0} for kind in CONFIGS)]
    mixtures += [dict(zip(pair, WEIGHTS, strict=True)) for pair in NEIGHBOURS]
    prompts = [
        [1 + 37 * (place + 1) + 11 * index for index in range(CHUNK_TOKENS + 40)] for place in range(len(mixtures))
    ]
    models = [
        " + ".join(f"{pushed.names[kind]}*{weight}" for kind, weight in mixture.items()) or base.name
        for mixture in mixtures
    ]
    with ThreadPoolExecutor(len(models)) as threads:
        answers = list(threads.map(lambda model, prompt: logprobs(client, model, prompt), models, prompts))
    dense = DenseModel(transformer, torch.float64)
    for mixture, answer in zip(mixtures, answers, strict=True):
        changes = [(weight, pushed.changes[kind]) for kind, weight in mixture.items()]
        tokens = [*answer.prompt, *answer.tokens]
        exact = dense.logits(changes, tokens[:-1]).log_softmax(1)
        expected = exact.gather(1, torch.tensor(tokens[1:]).unsqueeze(1)).squeeze(1)
        off = float((torch.tensor(answer.logprobs, dtype=torch.float64) - expected).abs().max())
        print(f"{mixture}: off by {off:.1e}")
        assert off < ROUNDING, mixture


def logprobs(client: httpx.Client, model: str, prompt: list[int]) -> Answer:
    """A greedy answer; `logprobs` are those of all tokens but the first, of the prompt and of the answer."""
    body = greedy(model, prompt, TOKENS, logprobs=1, prompt_logprobs=1)
    result = client.post("/v1/completions", json=body).raise_for_status().json()
    choice = result["choices"][0]
    ranked = zip(prompt[1:], choice["prompt_logprobs"][1:], strict=True)
    before = [float(entries[str(token)]["logprob"]) for token, entries in ranked]
    tokens, said = choice["token_ids"], choice["logprobs"]["token_logprobs"]
    return Answer(result["model"], choice["text"], prompt, tokens, [*before, *said])
