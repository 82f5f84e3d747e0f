import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from polyad.adapters_store.admission import Admitted, Limits, admit
from polyad.adapters_store.base_model import BaseModel


@dataclass
class Adapter:
    """A PEFT adapter on disk that a test can spoil before it sends it in."""

    folder: Path
    base: BaseModel
    limits: Limits = field(default_factory=lambda: Limits(max_rank=16))

    @property
    def weights(self) -> Path:
        return self.folder / "adapter_model.safetensors"

    @property
    def config(self) -> Path:
        return self.folder / "adapter_config.json"

    @property
    def destination(self) -> Path:
        return self.folder / "out" / "delta"

    def change_config(self, **changes: Any) -> None:
        self.config.write_text(json.dumps(json.loads(self.config.read_text()) | changes))

    def change_tensors(self, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
        tensors = {name: tensor.clone() for name, tensor in load_file(self.weights).items()}
        change(tensors)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, self.weights)

    def admit(self) -> Admitted:
        self.destination.parent.mkdir(exist_ok=True)
        return admit(self.config.read_bytes(), self.weights, self.base, self.limits, self.destination)

    def left_behind(self) -> list[Path]:
        return list(self.destination.parent.iterdir()) if self.destination.parent.exists() else []


@pytest.fixture(scope="session")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=48,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )


@pytest.fixture(scope="session")
def base(model: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = tmp_path_factory.mktemp("base")
    model.config.save_pretrained(folder)
    return BaseModel.from_folder(folder, "tiny")


@pytest.fixture
def make_adapter(model: LlamaForCausalLM, base: BaseModel, tmp_path: Path) -> Callable[..., Adapter]:
    def make(**config: Any) -> Adapter:
        config = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], **config}
        peft_config = LoraConfig(task_type="CAUSAL_LM", **({"init_lora_weights": False} | config))
        get_peft_model(copy.deepcopy(model), peft_config).save_pretrained(tmp_path)
        return Adapter(tmp_path, base)

    return make


@pytest.fixture
def adapter(make_adapter: Callable[..., Adapter]) -> Adapter:
    return make_adapter()


@pytest.fixture
def peft_deltas(model: LlamaForCausalLM) -> Callable[[Path], dict[str, torch.Tensor]]:
    """dW of every adapted module, as PEFT computes it in float64 from the files in a folder."""

    def deltas(folder: Path) -> dict[str, torch.Tensor]:
        loaded = PeftModel.from_pretrained(copy.deepcopy(model), folder).double()
        return {
            name.removeprefix("base_model.model."): module.get_delta_weight("default")
            for name, module in loaded.named_modules()
            if hasattr(module, "get_delta_weight")
        }

    return deltas
