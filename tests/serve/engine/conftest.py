import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.registry import Version
from polyad.serve.config import Settings

with warnings.catch_warnings():
    # vLLM and torch warn, while they are imported, of what others deprecated.
    warnings.simplefilter("ignore")
    import vllm.entrypoints.launchers.api_server.app_state
    import vllm.v1.worker.cpu_worker  # noqa: F401
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.structured_output import StructuredOutputManager

    from polyad.serve.engine.arguments import engine_arguments, serve_arguments
    from polyad.serve.engine.scheduler import SlotScheduler
    from tests.fixtures.simulation import BLOCKS, SLOT_WAIT_S, SLOTS, Simulation


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


@pytest.fixture
def simulate(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet_vllm: None
) -> Callable[..., Simulation]:
    clock = [1_000_000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])

    def make(slot_wait_s: float = SLOT_WAIT_S, places: int = 32) -> Simulation:
        settings = Settings.load(slots=SLOTS, max_rank=8, slot_wait_s=slot_wait_s, state_dir=tmp_path)
        base = BaseModel.from_folder(tiny_model, "tiny")
        options = ["--skip-tokenizer-init", "--max-num-seqs", str(places), "--max-num-batched-tokens", "64"]
        options += ["--no-enable-prefix-caching"]
        config = engine_arguments(serve_arguments(str(tiny_model), options, settings, base)).create_engine_config()
        config.cache_config.num_gpu_blocks = BLOCKS
        blocks = FullAttentionSpec(block_size=16, num_kv_heads=1, head_size=1, dtype=torch.float32)
        cache = KVCacheConfig(
            num_blocks=BLOCKS, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], blocks)]
        )
        assert config.scheduler_config.get_scheduler_cls() is SlotScheduler
        return Simulation(SlotScheduler(config, cache, StructuredOutputManager(config), 16), clock)

    return make
