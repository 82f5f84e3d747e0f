"""What adapters say through the server is what PEFT makes the same base model say, token for token.

PEFT is asked what it would say next after each token of the server's own answer: as long as that is the server's next
token, both texts are the same. Where it is not, the two must have been as good as equal to PEFT, too.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from tests.fixtures.adapters import write_adapter
from tests.fixtures.answers import TIE, Answer, ask
from tests.fixtures.reference import PeftReference

TOKENS = 24
QUESTIONS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "How do I boil an egg?",
    "Name three primary colours.",
    "Why is the sky blue?",
)
EVERY_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS: dict[str, dict[str, Any]] = {
    "rank 4 on q and v": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "size": 0.2},
    "rank-stabilised": {
        "r": 16,
        "lora_alpha": 8,
        "use_rslora": True,
        "target_modules": ["k_proj", "o_proj"],
        "size": 0.2,
    },
    "rank 8 on every linear layer": {"r": 8, "lora_alpha": 16, "target_modules": EVERY_LINEAR, "size": 0.2},
    "patterns": {
        "r": 4,
        "lora_alpha": 4,
        "target_modules": ["q_proj", "o_proj", "down_proj"],
        "rank_pattern": {"q_proj": 16, r"layers\.[0-9]\.mlp\.down_proj": 1},
        "alpha_pattern": {"o_proj": 16, "layers.29.self_attn.q_proj": 64},
        "size": 0.2,
    },
}


def shortfalls(reference: PeftReference, adapter: Path | None, prompt: list[int], answer: Answer) -> list[float]:
    """For each token that PEFT would not have said: how much less likely it was to PEFT, in logits."""
    logits = reference.logits(adapter, [*prompt, *answer.tokens])[len(prompt) - 1 : -1]
    said = logits.gather(1, torch.tensor(answer.tokens).unsqueeze(1)).squeeze(1)
    return [float(gap) for gap in logits.max(1).values - said if gap > 0]


def compare(client: httpx.Client, reference: PeftReference, model: str, adapter: Path | None) -> list[Answer]:
    answers = []
    for question in QUESTIONS:
        prompt = reference.prompt(question)
        answer = ask(client, model, prompt, TOKENS)
        missed = shortfalls(reference, adapter, prompt, answer)
        assert max(missed, default=0) < TIE, (question, answer.text, missed)
        assert len(missed) <= TOKENS / 8, (question, answer.text, missed)
        answers.append(answer)
    return answers


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_pefts(
    kind: str,
    client: httpx.Client,
    reference: PeftReference,
    new_name: Callable[[], str],
    push: Callable[..., str],
    tmp_path: Path,
) -> None:
    adapter = reference.write(tmp_path, seed=len(kind), **KINDS[kind])
    name = new_name()
    push(name, adapter)
    answers = compare(client, reference, name, adapter)
    # and the comparison would have seen any other adapter, or none
    prompts = [reference.prompt(question) for question in QUESTIONS]
    other = [shortfalls(reference, None, *pair) for pair in zip(prompts, answers, strict=True)]
    assert sum(max(missed, default=0) > 2 * TIE for missed in other) >= 3, other


def test_base_model_answers_as_in_transformers(client: httpx.Client, reference: PeftReference, base: Any) -> None:
    compare(client, reference, base.name, None)


def test_adapter_that_adds_nothing_is_the_base_model(
    client: httpx.Client,
    reference: PeftReference,
    base: Any,
    new_name: Callable[[], str],
    push: Callable[..., str],
    tmp_path: Path,
) -> None:
    name = new_name()
    push(name, write_adapter(tmp_path / "zero", base, seed=1, size=0, targets=EVERY_LINEAR))
    for question in QUESTIONS[:2]:
        prompt = reference.prompt(question)
        nothing, plain = ask(client, name, prompt, TOKENS), ask(client, base.name, prompt, TOKENS)
        assert (nothing.tokens, nothing.logprobs) == (plain.tokens, plain.logprobs)
        assert (nothing.model, plain.model) == (f"{name}@v1", base.name)
