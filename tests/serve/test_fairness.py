"""More adapters than slots (the server has two)."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

from polyad.adapters_store.base_model import BaseModel
from tests.fixtures.answers import TIE, Stream, ask, doubt

ADAPTERS = 6
PROMPT = "Once upon a time there was a"


def test_six_adapters_at_once_each_answer_as_alone(
    client: httpx.Client, base: BaseModel, new_adapter: Callable[..., str]
) -> None:
    ranks = (2, 4, 6, 8, 12, 16)
    names = [new_adapter(seed=seed, size=0.2, rank=rank) for seed, rank in enumerate(ranks, start=1)]
    models = [*names, base.name]
    with ThreadPoolExecutor(2 * len(models)) as threads:
        answers = list(threads.map(lambda name: ask(client, name, PROMPT, 24), [*models, *models]))
    for place, answer in enumerate(answers):
        name, other = models[place % len(models)], models[(place + 1) % len(models)]
        assert doubt(client, name, answer) < TIE, name
        assert doubt(client, other, answer) > TIE, (name, other)


def test_cold_adapter_is_served_while_two_hot_ones_go_on(client: httpx.Client, new_adapter: Callable[..., str]) -> None:
    """Each hot adapter always has two requests, so that neither ever gives up its slot by itself."""
    hot = [new_adapter(seed=seed) for seed in (1, 2)]
    cold = new_adapter(seed=3)
    tokens = 60
    streams = [Stream(client, name, PROMPT, tokens // (1 + turn)) for turn in (0, 1) for name in hot]
    longest_s = 0.0
    for stream in streams:
        stream.wait_for(1)
    served = Stream(client, cold, PROMPT, 4)
    asked = time.monotonic()
    while served.running and not served.times:
        for place, stream in enumerate(streams):
            if not stream.running:
                stream.end()
                longest_s = max(longest_s, stream.times[-1] - stream.times[0])
                streams[place] = Stream(client, hot[place % 2], PROMPT, tokens)
        assert time.monotonic() - asked < 60
        time.sleep(0.005)
    served.end()
    waited_s = served.times[0] - asked
    busy = [stream for stream in streams if stream.running]
    assert busy, "the hot ones were to go on"
    for stream in streams:
        assert stream.end()
    longest_s = max(longest_s, *(stream.times[-1] - stream.times[0] for stream in streams))
    # slot_wait_s is 0.5 here; then the requests that run on the slot end; the rest is what a busy machine may add
    assert waited_s < 0.5 + 2 * longest_s + 5
