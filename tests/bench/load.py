"""Requests for completions, many at once, and how many tokens a second they bring."""

import asyncio
import time
from collections.abc import Sequence

import httpx


def throughput(url: str, models: Sequence[str], requests: int, tokens: int) -> float:
    """Tokens per second of so many concurrent requests of so many tokens each, which take turns with the models."""
    return asyncio.run(_throughput(url, models, requests, tokens))


async def _throughput(url: str, models: Sequence[str], requests: int, tokens: int) -> float:
    limits = httpx.Limits(max_connections=requests)
    async with httpx.AsyncClient(base_url=url, timeout=1200, limits=limits) as client:
        started = time.perf_counter()
        await asyncio.gather(
            *(_complete(client, models[index % len(models)], index, tokens) for index in range(requests))
        )
        return requests * tokens / (time.perf_counter() - started)


async def _complete(client: httpx.AsyncClient, model: str, index: int, tokens: int) -> None:
    prompt = f"Question {index}: what is remarkable about the number {37 * index + 11}?"
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    answer = await client.post("/v1/completions", json=body)
    if answer.status_code != httpx.codes.OK:
        raise RuntimeError(f"{model}: {answer.status_code} {answer.text}")
    if answer.json()["usage"]["completion_tokens"] != tokens:
        raise RuntimeError(f"{model}: {answer.json()['usage']}, asked for {tokens} tokens")
