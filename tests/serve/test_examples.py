"""The example adapters say through the server, token for token, what transformers and PEFT say without it."""

import json
from pathlib import Path

import httpx
import pytest

from tests.fixtures.adapters import CONFIG, WEIGHTS

ROOT = Path(__file__).resolve().parents[2]
ADAPTERS = ROOT / "serve" / "example" / "adapters"
# By examples/answers.py: float32, greedy, at most this many tokens, with the lead of the closest call in logits.
ANSWERS = json.loads((ROOT / "examples" / "questions.json").read_text())
MAX_TOKENS = 48


@pytest.mark.parametrize("name", ["robot", "helpdesk"])
def test_answers_equal_peft(name: str, client: httpx.Client) -> None:
    files = {"config": (ADAPTERS / name / CONFIG).read_bytes(), "weights": (ADAPTERS / name / WEIGHTS).read_bytes()}
    client.post("/v1/adapters", data={"name": name}, files=files).raise_for_status()
    assert len(ANSWERS[name]) >= 20
    for entry in ANSWERS[name]:
        message = {"role": "user", "content": entry["question"]}
        body = {"model": name, "messages": [message], "temperature": 0, "max_tokens": MAX_TOKENS}
        answer = client.post("/v1/chat/completions", json=body).raise_for_status().json()
        assert answer["choices"][0]["message"]["content"] == entry["answer"], entry["question"]


def test_examples_are_small() -> None:
    for weights in ADAPTERS.glob(f"*/{WEIGHTS}"):
        assert weights.stat().st_size < 2_000_000
