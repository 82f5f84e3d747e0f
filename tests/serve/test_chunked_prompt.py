"""Prompts that do not fit into one step, with a seed: on CPU they end the engine of vLLM 0.32."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from polyad.adapters_store.base_model import BaseModel

# 256 tokens fit into a step
LONG = "The sea is wide and the wind is cold. " * 70
OTHER = "A ship left the harbour before dawn. " * 75


def sampled(client: httpx.Client, model: str, prompt: str, seed: int) -> dict[str, Any]:
    # At a high temperature chance decides, and hardly ever the rounding of another batch.
    body = {"model": model, "prompt": prompt, "max_tokens": 6, "temperature": 2.0, "seed": seed, "ignore_eos": True}
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == httpx.codes.OK, answer.text
    result: dict[str, Any] = answer.json()
    return result


def text(result: dict[str, Any]) -> str:
    said: str = result["choices"][0]["text"]
    return said


def at_once(client: httpx.Client, asked: Sequence[tuple[str, str, int]]) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(len(asked)) as threads:
        return list(threads.map(lambda request: sampled(client, *request), asked))


def test_seed_gives_the_same_text_in_chunks_and_in_one_piece(
    client: httpx.Client, base: BaseModel, new_adapter: Callable[..., str]
) -> None:
    adapter = new_adapter(seed=1)
    asked = [(base.name, LONG, 1), (adapter, OTHER, 2), (base.name, "The sea", 3)]
    chunked = at_once(client, asked)
    for result in chunked[:2]:
        assert result["usage"]["prompt_tokens"] > 2 * 256
    # now all but the end of each prompt is in the prefix cache: the rest is one chunk
    whole = [sampled(client, *request) for request in asked]
    for result in whole[:2]:
        usage = result["usage"]
        assert usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"] < 256
    assert [text(result) for result in chunked] == [text(result) for result in whole]
    others = [sampled(client, model, prompt, seed + 10) for model, prompt, seed in asked]
    assert all(text(one) != text(other) for one, other in zip(whole, others, strict=True))
    assert client.get("/ready").json()["status"] == "ready"


def test_many_seeds_at_once(client: httpx.Client, base: BaseModel) -> None:
    """Long and short prompts with a seed and without, so that chunks of some share their steps with ends of others."""
    prompts = [f"Chapter {number}. {LONG[: 300 * number]}" for number in range(1, 7)]
    asked = [(base.name, prompt, number) for number, prompt in enumerate(prompts)]
    first, second = at_once(client, asked), at_once(client, asked)
    assert [text(result) for result in first] == [text(result) for result in second]
