import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel

from polyad.adapters_store.base_model import BaseModel
from tests.fixtures.tiny import PREFIX, Adapter, Tensors, Tiny, conv1d, llama


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices this small are slower on many."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A Llama with grouped queries, without biases."""
    return Tiny.saved(llama(), tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def biased(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The same with a bias in every linear layer."""
    return Tiny.saved(llama(attention_bias=True, mlp_bias=True), tmp_path_factory.mktemp("biased"))


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny.saved(conv1d(), tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="session")
def base(tiny: Tiny) -> BaseModel:
    return tiny.base


@pytest.fixture
def make_adapter(tiny: Tiny, tmp_path: Path) -> Callable[..., Adapter]:
    def make(**config: Any) -> Adapter:
        config = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], **config}
        return tiny.trained(LoraConfig(task_type="CAUSAL_LM", **config), tmp_path)

    return make


@pytest.fixture
def adapter(make_adapter: Callable[..., Adapter]) -> Adapter:
    return make_adapter()


@pytest.fixture
def peft_deltas(tiny: Tiny) -> Callable[[Path], Tensors]:
    """dW of every adapted module, as PEFT computes it in float64 from the files in a folder."""

    def deltas(folder: Path) -> Tensors:
        loaded = PeftModel.from_pretrained(copy.deepcopy(tiny.model), folder).double()
        return {
            name.removeprefix(PREFIX): module.get_delta_weight("default")
            for name, module in loaded.named_modules()
            if hasattr(module, "get_delta_weight")
        }

    return deltas
