"""Blends through the server: exactly W + sum of w dW, each in one batch with all others (the server has two slots)."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from polyad.adapters_store.base_model import BaseModel
from tests.fixtures.answers import TIE, Answer, Stream, ask, beside, doubt
from tests.fixtures.reference import PeftReference

TOKENS = 16
PROMPT = "The lighthouse keeper wrote in his diary that"
LONG_PROMPT = "Once upon a time there was a lighthouse. " * 40  # more than one chunk
MIXTURES = ("{a}*0.7 + {b}*0.3", "{a} - {b}*0.5", "{a}*-1", "({a} + {b})*0.5 - {a}*0.25", "{b}*1.5")


@dataclass(frozen=True)
class Pair:
    """Two adapters of other ranks and targets."""

    a: str
    b: str
    folders: Mapping[str, Path]

    def model(self, mixture: str) -> str:
        return mixture.format(a=self.a, b=self.b)

    def weights(self, mixture: str) -> dict[Path, float]:
        """What arithmetic says that the text means."""
        at = {name: eval(mixture.format(a=name == "a", b=name == "b")) for name in "ab"}  # noqa: S307
        return {self.folders[name]: float(weight) for name, weight in at.items()}


@pytest.fixture
def pair(reference: PeftReference, new_name: Callable[[], str], push: Callable[..., str], tmp_path: Path) -> Pair:
    folders = {
        "a": reference.write(
            tmp_path, seed=1, r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], size=0.15
        ),
        "b": reference.write(
            tmp_path, seed=2, r=16, lora_alpha=8, use_rslora=True, target_modules="all-linear", size=0.05
        ),
    }
    names = {letter: new_name() for letter in folders}
    for letter, folder in folders.items():
        push(names[letter], folder)
    return Pair(names["a"], names["b"], folders)


def shortfall(logits: torch.Tensor, answer: Answer) -> float:
    """By how much the least fitting token was less likely than the likeliest there, in logits."""
    said = logits.gather(1, torch.tensor(answer.tokens).unsqueeze(1)).squeeze(1)
    return float((logits.max(1).values - said).max())


def test_blends_say_what_a_densely_changed_model_says(
    client: httpx.Client, reference: PeftReference, pair: Pair
) -> None:
    """All at once, so that every batch holds many mixtures."""
    models = [pair.model(mixture) for mixture in MIXTURES]
    with ThreadPoolExecutor(len(models)) as threads:
        answers = list(threads.map(lambda model: ask(client, model, PROMPT, TOKENS), models))
    others = []
    for mixture, answer in zip(MIXTURES, answers, strict=True):
        text = [*answer.prompt, *answer.tokens]
        place = slice(len(answer.prompt) - 1, -1)
        assert shortfall(reference.blended_logits(pair.weights(mixture), text)[place], answer) < TIE, mixture
        others.append(shortfall(reference.logits(None, text)[place], answer))
    assert sum(other > 10 * TIE for other in others) >= 3, "and the comparison would have seen the base model"


def test_answer_names_versions_and_weights(client: httpx.Client, pair: Pair) -> None:
    answer = ask(client, pair.model("{b}*0.3 + {a}*0.7"), PROMPT, 1)
    first, second = sorted([(pair.a, 0.7), (pair.b, 0.3)])
    assert answer.model == f"{first[0]}@v1*{first[1]} + {second[0]}@v1*{second[1]}"


def test_equal_compositions_share_the_prefix_cache_and_others_never(client: httpx.Client, pair: Pair) -> None:
    model = pair.model("{a}*0.7 + {b}*0.3")
    first = ask(client, model, LONG_PROMPT, 4)
    assert first.cached == 0
    same = ask(client, pair.model("{b}*0.3 + {a}*0.5 + {a}*0.2"), LONG_PROMPT, 4)
    assert same.cached > 200
    assert same.tokens == first.tokens
    for other in ("{a}*0.7 + {b}*0.31", "{a}*0.3 + {b}*0.7", "{a}*0.7", "{a}", "{b}"):
        answer = ask(client, pair.model(other), LONG_PROMPT, 4)
        assert answer.cached == 0, other
        assert doubt(client, pair.model(other), answer) < TIE, other


def test_weights_of_nothing_are_the_base_model(client: httpx.Client, base: BaseModel, pair: Pair) -> None:
    nothing, plain = ask(client, pair.model("{a} - {a}"), PROMPT, TOKENS), ask(client, base.name, PROMPT, TOKENS)
    assert nothing.tokens == plain.tokens
    assert nothing.model == "()"


def test_many_mixtures_of_more_adapters_than_slots_are_all_served(
    client: httpx.Client, new_adapter: Callable[..., str]
) -> None:
    names = [new_adapter(seed=seed, size=0.2, rank=rank) for seed, rank in enumerate((2, 8, 16, 4))]
    models = [f"{one}*0.6 + {two}*{weight}" for one in names for two in names if one < two for weight in (0.4, -0.3)]
    with ThreadPoolExecutor(len(models)) as threads:
        answers = list(threads.map(lambda model: ask(client, model, PROMPT, 8), models))
    for place, answer in enumerate(answers):
        assert doubt(client, models[place], answer) < TIE
        assert answer.model.count("@v1*") == 2


def test_blend_of_more_versions_than_slots_is_refused_with_the_number(
    client: httpx.Client, new_adapter: Callable[..., str]
) -> None:
    names = [new_adapter(seed=seed) for seed in range(3)]
    answer = client.post("/v1/completions", json={"model": " + ".join(names), "prompt": PROMPT, "max_tokens": 1})
    assert answer.status_code == httpx.codes.BAD_REQUEST
    assert "at most 2" in answer.json()["error"]["message"]


def test_running_blend_keeps_its_versions_through_a_promotion(
    client: httpx.Client, new_name: Callable[[], str], make_adapter: Callable[..., Path], push: Callable[..., str]
) -> None:
    name, other = new_name(), new_name()
    push(name, make_adapter(seed=1, size=0.2))
    push(other, make_adapter(seed=2, size=0.2))
    before, pinned = f"{name}*0.5 + {other}*0.5", f"{name}@v1*0.5 + {other}@v1*0.5"
    stream = Stream(client, before, PROMPT, 60).wait_for(3)
    assert push(name, make_adapter(seed=3, size=0.2), alias="production") == "v2"
    answer = stream.end()
    assert stream.models == {ask(client, pinned, PROMPT, 1).model}
    assert doubt(client, pinned, answer) < TIE
    assert ask(client, before, PROMPT, 1).model == ask(client, f"{name}@v2*0.5 + {other}*0.5", PROMPT, 1).model


def test_saved_composition_and_json_say_the_same(client: httpx.Client, new_name: Callable[[], str], pair: Pair) -> None:
    name = new_name()
    saved: dict[str, Any] = {"expression": pair.model("{a}*0.7 + {b}*0.3")}
    client.put(f"/v1/compositions/{name}", json=saved).raise_for_status()
    parts = [{"adapter": pair.a, "weight": 0.7}, {"adapter": pair.b, "weight": 0.3}]
    body = {"prompt": PROMPT, "max_tokens": 8, "temperature": 0}
    try:
        said = [
            client.post("/v1/completions", json={**body, **asked}).raise_for_status().json()
            for asked in ({"model": saved["expression"]}, {"model": name}, {"composition": {"blend": parts}})
        ]
    finally:
        client.delete(f"/v1/compositions/{name}").raise_for_status()
    assert len({(answer["model"], answer["choices"][0]["text"]) for answer in said}) == 1


def test_adapters_in_use_are_named_as_clients_name_them_in_one_series(client: httpx.Client, pair: Pair) -> None:
    """However many mixtures there were: as a Gateway's endpoint picker reads it."""

    def in_use() -> list[str]:
        lines = client.get("/metrics").text.splitlines()
        return [line for line in lines if line.startswith("vllm:lora_requests_info{")]

    for step in range(8):
        ask(client, pair.model(f"{{a}}*0.{step + 1} - {{b}}"), PROMPT, 1)
    _, shown = beside(lambda: [Stream(client, pair.model("{a}*0.7 + {b}*0.3"), PROMPT, 200).wait_for(4)], in_use)
    assert len(shown) == 1
    assert f'running_lora_adapters="{",".join(sorted([pair.a, pair.b]))}"' in shown[0]
    assert 'waiting_lora_adapters=""' in shown[0]
