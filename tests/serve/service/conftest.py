import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from transformers import LlamaConfig

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.blobs import BlobStore
from polyad.adapters_store.registry import EmbeddedRedis, Registry
from polyad.adapters_store.source import AdapterFiles
from tests.fixtures.adapters import CONFIG, WEIGHTS, write_adapter


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path / "redis")
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def registry(redis: EmbeddedRedis) -> AsyncIterator[Registry]:
    registry = Registry(redis.url)
    await registry.start()
    yield registry
    await registry.close()


@pytest.fixture
async def blobs(tmp_path: Path) -> BlobStore:
    store = BlobStore(str(tmp_path / "blobs"), tmp_path / "cache", 0)
    await store.start()
    return store


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = tmp_path_factory.mktemp("tiny")
    LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)
    return BaseModel.from_folder(folder, "tiny")


@pytest.fixture
def make_files(tmp_path: Path, tiny_base: BaseModel) -> Callable[..., AdapterFiles]:
    """The two files of an adapter, other ones for each seed."""

    def make(seed: int, **options: int) -> AdapterFiles:
        folder = tmp_path / f"adapter-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        write_adapter(folder, tiny_base, seed=seed, **({"rank": 4} | options))
        return AdapterFiles((folder / CONFIG).read_bytes(), folder / WEIGHTS, "upload")

    return make
