import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import LlamaConfig

from polyad.adapters_store.registry import Version

with warnings.catch_warnings():
    # vLLM and torch warn, while they are imported, of what others deprecated.
    warnings.simplefilter("ignore")
    import vllm.entrypoints.launchers.api_server.app_state
    import vllm.v1.worker.cpu_worker  # noqa: F401


@pytest.fixture
def make_version() -> Callable[..., Version]:
    def make(adapter: str, number: int = 1, *, digest: str = "0f3a" * 16, size: int = 1, base: str = "base") -> Version:
        return Version(
            tenant="public",
            adapter=adapter,
            number=number,
            created=0,
            digest=digest,
            size=size,
            base=base,
            rank=8,
            targets=("q_proj",),
            source="upload",
        )

    return make


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder without weights, for what reads only the config."""
    folder = tmp_path_factory.mktemp("tiny")
    LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def quiet_vllm() -> Iterator[None]:
    """Let vLLM be configured in this process, without leaving traces in the environment or in vLLM's own classes."""
    before = dict(os.environ)
    os.environ["VLLM_PLUGINS"] = ""
    yield
    os.environ.clear()
    os.environ.update(before)
