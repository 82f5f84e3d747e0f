"""What admission must know of the base model: its name, its identity, and the shapes of its linear layers."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from polyad.adapters_store.errors import ConfigError

# Keys of a Hugging Face config that say nothing about what the model computes: where it came from,
# in which precision it is kept, how text is generated with it, what training did.
_NOT_ARCHITECTURE = frozenset(
    {
        "_name_or_path",
        "_commit_hash",
        "_attn_implementation",
        "_experts_implementation",
        "attn_implementation",
        "architectures",
        "auto_map",
        "bos_token_id",
        "dtype",
        "eos_token_id",
        "id2label",
        "initializer_range",
        "label2id",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "pretraining_tp",
        "problem_type",
        "quantization_config",
        "return_dict",
        "torch_dtype",
        "transformers_version",
        "transformers.js_config",
        "use_cache",
    }
)


@dataclass(frozen=True)
class BaseModel:
    """The served model. `linears` maps a module path to (out features, in features).

    `reserved` are modules that PEFT could adapt and polyad cannot: embeddings, the output head, convolutions.
    Two models of the same architecture have the same fingerprint, whatever their weights.
    """

    name: str
    fingerprint: str
    linears: Mapping[str, tuple[int, int]]
    reserved: frozenset[str] = frozenset()

    @classmethod
    def from_folder(cls, path: Path, name: str) -> "BaseModel":
        """Read the config in `path`; no weights are loaded, no code of the model is run, no network is used.

        Raises ConfigError for a folder that holds no causal language model that transformers knows.
        """
        if not (path / "config.json").is_file():
            raise ConfigError(f"model: no config.json in {path}")
        try:
            config, model = _meta_model(path)
        except Exception as error:
            # transformers raises whatever its model code happens to raise on a config that it cannot use
            raise ConfigError(f"model: {path}: unusable config: {type(error).__name__}: {error}") from error
        linears, reserved = _modules(model)
        if not linears:
            raise ConfigError(f"model: {path}: has no linear layer that an adapter could change")
        shapes = {key: list(parameter.shape) for key, parameter in model.named_parameters()}
        return cls(name, _fingerprint(config, shapes), linears, reserved)


def _meta_model(path: Path) -> tuple[dict[str, object], torch.nn.Module]:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]
    return config.to_diff_dict(), model


def _modules(model: Any) -> tuple[dict[str, tuple[int, int]], frozenset[str]]:
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    linears: dict[str, tuple[int, int]] = {}
    reserved: set[str] = set()
    for name, module in model.named_modules():
        if module is head:
            reserved.add(name)
        elif isinstance(module, torch.nn.Linear):
            linears[name] = (module.out_features, module.in_features)
        elif isinstance(module, Conv1D):
            linears[name] = (module.weight.shape[1], module.weight.shape[0])
        elif isinstance(module, torch.nn.Embedding | torch.nn.modules.conv._ConvNd | torch.nn.MultiheadAttention):
            reserved.add(name)
    return linears, frozenset(reserved)


def _fingerprint(config: dict[str, object], shapes: dict[str, list[int]]) -> str:
    content = {"config": _architecture(config), "shapes": shapes}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _architecture(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _architecture(item) for key, item in value.items() if key not in _NOT_ARCHITECTURE}
    return value
