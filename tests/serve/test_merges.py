"""Merges through the server: computed when they are first named, once, and what a densely merged model says."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch
from peft.utils import merge_utils

from tests.fixtures.answers import TIE, Answer, ask
from tests.fixtures.reference import PeftReference

TOKENS = 12
PROMPT = "The lighthouse keeper wrote in his diary that"


@pytest.fixture
def pair(
    reference: PeftReference, new_name: Callable[[], str], push: Callable[..., str], tmp_path: Path
) -> dict[str, Path]:
    """Two adapters of other ranks, pushed: their folders by name."""
    pushed = {}
    for seed, rank in ((1, 4), (2, 8)):
        folder = reference.write(
            tmp_path, seed=seed, r=rank, lora_alpha=8, target_modules=["q_proj", "v_proj"], size=0.3
        )
        name = new_name()
        push(name, folder)
        pushed[name] = folder
    return pushed


def shortfall(logits: torch.Tensor, answer: Answer) -> float:
    """By how much the least fitting token was less likely than the likeliest there, in logits."""
    place = slice(len(answer.prompt) - 1, len(answer.prompt) - 1 + len(answer.tokens))
    said = logits[place].gather(1, torch.tensor(answer.tokens).unsqueeze(1)).squeeze(1)
    return float((logits[place].max(1).values - said).max())


def results(client: httpx.Client, text: str) -> list[tuple[str, float]]:
    listed = client.get("/v1/merges").json()["data"]
    return [(one["id"], one["created"]) for one in listed if one["expression"] == text]


def test_a_ties_merge_says_what_a_densely_merged_model_says(
    client: httpx.Client, reference: PeftReference, pair: dict[str, Path]
) -> None:
    """The result is kept exactly, so that PEFT's own function on PEFT's own dW must give the same answer."""
    a, b = pair
    options = "compress_density=1, density=0.3, variant=peft"
    model, text = f"ties({a}, {b}*0.5; {options})", f"ties({a}@v1, {b}@v1*0.5; {options})"
    with ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(lambda _: ask(client, model, PROMPT, TOKENS), range(3)))
    assert {answer.model for answer in answers} == {text}
    assert len({tuple(answer.tokens) for answer in answers}) == 1
    weights = torch.tensor([1.0, 0.5])
    answer, said = answers[0], [*answers[0].prompt, *answers[0].tokens]
    merged = reference.merged_logits(list(pair.values()), lambda tasks: merge_utils.ties(tasks, weights, 0.3), said)
    assert shortfall(merged, answer) < TIE
    assert shortfall(reference.logits(None, said), answer) > 10 * TIE, "and it would have seen the base model"
    first = results(client, text)
    assert len(first) == 1
    ask(client, model, PROMPT, 1)
    assert results(client, text) == first, "the second request did not merge again"


def test_a_merge_within_a_blend(client: httpx.Client, pair: dict[str, Path], reference: PeftReference) -> None:
    """slerp is exact as it is: half of it is half of what the two weights say."""
    a, b = pair
    answer = ask(client, f"slerp({a}, {b}; t=0.3)*0.5", PROMPT, TOKENS)
    assert answer.model == f"slerp({a}@v1, {b}@v1; t=0.3)*0.5"

    def halved(tasks: list[torch.Tensor]) -> torch.Tensor:
        one, other = (task.flatten().double() for task in tasks)
        angle = torch.acos(one @ other / (one.norm() * other.norm()))
        return ((torch.sin(0.7 * angle) * tasks[0] + torch.sin(0.3 * angle) * tasks[1]) / torch.sin(angle)).float() / 2

    merged = reference.merged_logits(list(pair.values()), halved, [*answer.prompt, *answer.tokens])
    assert shortfall(merged, answer) < TIE


def test_a_chat_by_a_saved_composition(
    client: httpx.Client, pair: dict[str, Path], new_name: Callable[[], str]
) -> None:
    a, b = pair
    name = new_name()
    client.put(f"/v1/compositions/{name}", json={"expression": f"dare_linear({a}, {b}; seed=7)"}).raise_for_status()
    body = {"model": name, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    try:
        answer = client.post("/v1/chat/completions", json=body).raise_for_status().json()
    finally:
        client.delete(f"/v1/compositions/{name}")
    assert answer["model"] == f"dare_linear({a}@v1, {b}@v1; seed=7)"


def test_the_revocation_of_an_adapter_revokes_its_merges(
    client: httpx.Client, new_adapter: Callable[..., str], pair: dict[str, Path]
) -> None:
    a, _ = pair
    gone = new_adapter(seed=5, size=0.2)
    model = f"ties({a}, {gone})"
    ask(client, model, PROMPT, 1)
    client.delete(f"/v1/adapters/{gone}").raise_for_status()
    answer = client.post("/v1/completions", json={"model": model, "prompt": PROMPT, "max_tokens": 1})
    assert answer.status_code == httpx.codes.NOT_FOUND


def test_a_merge_that_means_nothing_is_a_400(client: httpx.Client, pair: dict[str, Path]) -> None:
    a, b = pair
    answer = client.post("/v1/completions", json={"model": f"ties({a}, {b}; density=3)", "prompt": PROMPT})
    assert answer.status_code == httpx.codes.BAD_REQUEST
    assert "density: got 3" in answer.json()["error"]["message"]
