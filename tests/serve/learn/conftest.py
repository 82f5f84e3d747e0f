import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from polyad.adapters_store.delta import Delta
from polyad.adapters_store.feedback import Message
from polyad.serve.learn.data import Example
from polyad.serve.learn.speaker import Speaker
from polyad.serve.learn.train import Encoder, continued
from tests.fixtures.tiny_chat import lora, tiny_chat

_numbers = itertools.count()


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tiny_chat(tmp_path_factory.mktemp("tiny-chat"))


@pytest.fixture
def make_speaker(chat_folder: Path) -> Callable[..., Speaker]:
    """The tiny model as a version: by default a new LoRA, which changes nothing yet."""

    def make(delta: Delta | None = None, max_length: int = 64, check: Callable[[], None] = lambda: None) -> Speaker:
        base = AutoModelForCausalLM.from_pretrained(chat_folder)
        encoder = Encoder(AutoTokenizer.from_pretrained(chat_folder), max_length)
        return Speaker(continued(base, delta or lora()), encoder, max_new_tokens=8, check=check)

    return make


def example(kind: str = "sft", question: str = "What?", answer: str = "That.", **fields: Any) -> Example:
    number = next(_numbers)
    if kind == "dpo":
        fields.setdefault("rejected", "Nothing.")
    if kind == "kto":
        fields.setdefault("desirable", True)
    filled = {"event": f"event-{number}", "response": f"response-{number}", "version": 1, "expires": time.time() + 3600}
    prompt = (Message(role="user", content=question),)
    return Example.model_validate({**filled, "kind": kind, "prompt": prompt, "answer": answer, **fields})
