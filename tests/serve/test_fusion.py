"""Fusions through the server: what separate forward passes in transformers, combined here, would say, token for token.

The server has two slots, and prefills prompts of more than CHUNK_TOKENS tokens in several chunks.
"""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from openai import OpenAI

from polyad.adapters_store.base_model import BaseModel
from tests.fixtures.answers import TIE, Answer, Stream, ask, greedy
from tests.fixtures.reference import PeftReference
from tests.kernels.fusion_cases import kl, published_search

TOKENS = 16
PROMPT = "The lighthouse keeper wrote in his diary that"
LONG_PROMPT = "Once upon a time there was a lighthouse. " * 40  # more than one chunk
CANDIDATES = [index / 10 for index in range(21)]


@dataclass(frozen=True)
class Pair:
    """Two adapters, their folders, and what the three streams say of a text."""

    a: str
    b: str
    folders: tuple[Path, Path]
    reference: PeftReference

    def model(self, text: str) -> str:
        return text.format(a=self.a, b=self.b)

    def logits(self, answer: Answer) -> torch.Tensor:
        """[stream, token, vocabulary] before each token of the answer: base, a, b."""
        text = [*answer.prompt, *answer.tokens]
        streams = [self.reference.logits(folder, text) for folder in (None, *self.folders)]
        return torch.stack(streams)[:, len(answer.prompt) - 1 : -1].double()


@pytest.fixture
def pair(reference: PeftReference, new_name: Callable[[], str], push: Callable[..., str], tmp_path: Path) -> Pair:
    folders = (
        reference.write(tmp_path, seed=1, r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], size=0.25),
        reference.write(tmp_path, seed=2, r=8, lora_alpha=8, target_modules="all-linear", size=0.05),
    )
    names = [new_name(), new_name()]
    for name, folder in zip(names, folders, strict=True):
        push(name, folder)
    return Pair(names[0], names[1], folders, reference)


def static(logits_ST: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    base = logits_ST[0]
    return base + sum(weight * (one - base) for weight, one in zip(weights, logits_ST[1:], strict=True))


def dynamic(logits_STV: torch.Tensor) -> torch.Tensor:
    rows = []
    for token in range(logits_STV.shape[1]):
        streams = logits_STV[:, token]
        expert, alpha = published_search(streams, CANDIDATES)
        rows.append(streams[0] + alpha * (streams[expert] - streams[0]))
    return torch.stack(rows)


def plausible(logits_TV: torch.Tensor, other_TV: torch.Tensor) -> torch.Tensor:
    least = logits_TV.max(1, keepdim=True).values + torch.tensor(0.1).log()
    return (1.5 * logits_TV - 0.5 * other_TV).masked_fill(logits_TV < least, float("-inf"))


METHODS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "fuse({a}*0.6, {b}*0.5; mode=static)": lambda s: static(s, (0.6, 0.5)),
    "fuse({a}*-0.5, {b}; mode=static)": lambda s: static(s, (-0.5, 1)),
    "fuse({a}, {b}; mode=mean)": lambda s: s[1:].softmax(2).mean(0).log(),
    "fuse({a}*3, {b}; mode=mean_log)": lambda s: 0.75 * s[1] + 0.25 * s[2],
    "fuse({a}, {b}; mode=proxy, alpha=0.7)": lambda s: s[0] + 0.7 * (s[1] - s[2]),
    "fuse({b}, (); mode=contrastive)": lambda s: plausible(s[2], s[0]),
    "fuse({a}, {b})": dynamic,
}


def shortfall(logits_TV: torch.Tensor, answer: Answer) -> float:
    """By how much the least fitting token was less likely than the likeliest there, in logits."""
    said = logits_TV.gather(1, torch.tensor(answer.tokens).unsqueeze(1)).squeeze(1)
    return float((logits_TV.max(1).values - said).max())


def test_every_method_says_what_separate_forward_passes_say(client: httpx.Client, pair: Pair) -> None:
    """All at once, so that every batch holds many groups."""
    with ThreadPoolExecutor(len(METHODS)) as threads:
        answers = list(threads.map(lambda text: ask(client, pair.model(text), PROMPT, TOKENS), METHODS))
    others = []
    for (text, method), answer in zip(METHODS.items(), answers, strict=True):
        streams = pair.logits(answer)
        fused_TV = method(streams)
        assert shortfall(fused_TV, answer) < TIE, text
        logprobs = fused_TV.log_softmax(1).gather(1, torch.tensor(answer.tokens).unsqueeze(1)).squeeze(1)
        assert answer.logprobs == pytest.approx(logprobs.tolist(), abs=0.02), text
        others.append(min(shortfall(stream, answer) for stream in streams))
    assert sum(other > 10 * TIE for other in others) >= 4, "and the comparison would have seen any stream alone"


def test_long_prompts_in_chunks_say_the_same(client: httpx.Client, pair: Pair) -> None:
    text = "fuse({a}*0.6, {b}*0.5; mode=static)"
    for _ in range(2):  # the second one finds its prompt in the prefix cache
        answer = ask(client, pair.model(text), LONG_PROMPT, 8)
        assert shortfall(METHODS[text](pair.logits(answer)), answer) < TIE
    assert answer.cached > 200


def test_weights_of_nothing_and_of_one_are_the_base_and_the_expert(
    client: httpx.Client, base: BaseModel, pair: Pair
) -> None:
    cases = {
        "fuse({a}*0; mode=static)": base.name,
        "fuse({a}; mode=static)": pair.a,
        "fuse({a}, {b}*0; mode=static)": pair.a,
        "fuse({a}, {a})": pair.a,
        "fuse({b}, {b}, {b}; mode=mean)": pair.b,
        "fuse({b}; single=plain)": pair.b,
        "fuse({a} + {b}*0.5, {a} + {b}*0.5; mode=mean_log)": f"{pair.a} + {pair.b}*0.5",
    }
    for text, plain in cases.items():
        fused, wanted = (ask(client, model, PROMPT, TOKENS) for model in (pair.model(text), plain))
        assert fused.tokens == wanted.tokens, text
        assert fused.logprobs == pytest.approx(wanted.logprobs, abs=1e-3), text


def test_one_token_is_a_whole_prompt(client: httpx.Client, pair: Pair) -> None:
    answers = [ask(client, pair.model(text), [50], 8) for text in ("fuse({a}; mode=static)", "{a}")]
    assert answers[0].tokens == answers[1].tokens


def sampled(client: httpx.Client, model: str, seed: int, **options: Any) -> list[str]:
    body = greedy(model, PROMPT, TOKENS, temperature=0.9, top_p=0.95, top_k=50, seed=seed, **options)
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == httpx.codes.OK, answer.text
    return [choice["text"] for choice in answer.json()["choices"]]


def test_sampled_with_a_seed_a_fusion_of_equals_is_what_each_says(client: httpx.Client, pair: Pair) -> None:
    """Every sampling parameter counts once: twice, or for each stream, would be another text."""
    options = {"min_p": 0.02, "presence_penalty": 0.5, "repetition_penalty": 1.2, "logit_bias": {"28": -5}}
    said = []
    for seed in (1, 2, 3):
        fused, plain = (
            sampled(client, pair.model(text), seed, **options) for text in ("fuse({a}, {a}; mode=mean_log)", "{a}")
        )
        assert fused == plain
        said += fused
    assert len(set(said)) == 3


def test_each_of_n_is_a_group_of_its_own(client: httpx.Client, pair: Pair) -> None:
    fused, plain = (sampled(client, pair.model(text), 5, n=3) for text in ("fuse({a}, {a}; mode=mean_log)", "{a}"))
    assert fused == plain
    assert len(set(fused)) == 3


def test_structured_output_masks_the_fused_logits(openai_client: OpenAI, pair: Pair) -> None:
    answer = openai_client.chat.completions.create(
        model=pair.model("fuse({a}, {b}; mode=mean)"),
        messages=[{"role": "user", "content": "What colour is the sea?"}],
        extra_body={"structured_outputs": {"choice": ["turquoise", "indigo"]}},
        max_tokens=20,
        temperature=0,
    )
    assert answer.choices[0].message.content in ("turquoise", "indigo")


def test_stop_strings_end_the_group(client: httpx.Client, pair: Pair) -> None:
    model = pair.model("fuse({a}, {b})")
    whole = ask(client, model, PROMPT, TOKENS).text
    stop = whole[10:16]
    body = {"model": model, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, "stop": [stop]}
    choice = client.post("/v1/completions", json=body).json()["choices"][0]
    assert (choice["finish_reason"], choice["text"]) == ("stop", whole[: whole.index(stop)])


def test_answer_says_how_each_token_came_about(client: httpx.Client, pair: Pair) -> None:
    body = greedy(pair.model("fuse({a}, {b})"), PROMPT, TOKENS, return_fusion=True)
    answer = client.post("/v1/completions", json=body).json()
    choice = answer["choices"][0]
    tokens, summary = choice["fusion"]["tokens"], choice["fusion"]["summary"]
    assert answer["model"] == pair.model("fuse({a}@v1, {b}@v1)")
    assert answer["usage"]["completion_tokens"] == TOKENS == len(tokens) == summary["tokens"]
    assert answer["usage"]["fusion"] == {"sequences": 3}
    labels = ["base", f"{pair.a}@v1", f"{pair.b}@v1"]
    streams = pair.logits(Answer(prompt=choice["prompt_token_ids"], tokens=choice["token_ids"]))
    for place, token in enumerate(tokens):
        expert, alpha = published_search(streams[:, place], CANDIDATES)
        wanted = {label: 0.0 for label in labels} | {"base": 1 - alpha, labels[expert]: alpha}
        assert token["weights"] == pytest.approx(wanted, abs=1e-5)
        assert token["expert"] == labels[expert]
        base, *experts = streams[:, place]
        said = base + alpha * (experts[expert - 1] - base)
        assert token["kl_from_base"] == pytest.approx(kl(said, base), abs=2e-3)
        assert token["kl_to_base"] == pytest.approx(kl(base, said), abs=2e-3)
        assert token["target_from_base"] == pytest.approx(sum(kl(one, base) for one in experts) / 2, abs=2e-3)
        assert token["target_to_base"] == pytest.approx(sum(kl(base, one) for one in experts) / 2, abs=2e-3)
    assert sum(summary["chosen"].values()) == TOKENS
    plain = client.post("/v1/completions", json=greedy(pair.a, PROMPT, 1, return_fusion=True)).json()
    assert "fusion" not in plain["choices"][0]


def test_stream_says_it_token_by_token(client: httpx.Client, pair: Pair) -> None:
    model = pair.model("fuse({a}, {b})")
    whole = client.post("/v1/completions", json=greedy(model, PROMPT, TOKENS, return_fusion=True)).json()["choices"][0]
    streamed: list[Any] = []
    body = greedy(model, PROMPT, TOKENS, return_fusion=True, stream=True, stream_options={"include_usage": True})
    with client.stream("POST", "/v1/completions", json=body) as response:
        events = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {")]
    for event in events:
        for choice in event["choices"]:
            assert len(choice["fusion"]["tokens"]) == len(choice["token_ids"] or ())
            streamed += choice["fusion"]["tokens"]
    assert streamed == whole["fusion"]["tokens"]
    last = [choice for event in events for choice in event["choices"]][-1]
    assert last["fusion"]["summary"] == whole["fusion"]["summary"]
    assert events[-1]["usage"]["fusion"] == {"sequences": 3}


def test_client_that_leaves_takes_the_whole_group_along(client: httpx.Client, pair: Pair) -> None:
    stream = greedy(pair.model("fuse({a}, {b})"), PROMPT, 400, stream=True)
    with client.stream("POST", "/v1/completions", json=stream) as response:
        next(response.iter_lines())
    other = Stream(client, pair.a, PROMPT, 30).end()
    assert len(other.tokens) == 30
    metrics = client.get("/metrics").text
    assert "polyad_fusion_groups 0.0" in metrics
    running = [line for line in metrics.splitlines() if line.startswith("vllm:num_requests_running")]
    assert running[0].endswith(" 0.0")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"use_beam_search": True, "n": 2}, "beam search without a fusion"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"return_fusion": "yes"}, "return_fusion: got 'yes', allowed: true or false"),
        ({"vllm_xargs": {"polyad_fusion": "x"}}, "names that are not polyad's own"),
    ],
)
def test_what_a_fusion_cannot_do_is_refused(
    client: httpx.Client, pair: Pair, fields: dict[str, Any], message: str
) -> None:
    body = {"model": pair.model("fuse({a}, {b})"), "prompt": PROMPT, "max_tokens": 4, **fields}
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == httpx.codes.BAD_REQUEST, answer.text
    assert message in answer.json()["error"]["message"]


def test_one_expert_is_refused_with_the_reason(client: httpx.Client, pair: Pair) -> None:
    body = {"model": pair.model("fuse({a})"), "prompt": PROMPT, "max_tokens": 4}
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == httpx.codes.BAD_REQUEST
    assert "the dynamic rule always finds that expert itself" in answer.json()["error"]["message"]
