"""What must be known of the base model: its name, its identity, its linear layers, and their weights if need be."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from polyad.adapters_store.checkpoint import Checkpoint
from polyad.adapters_store.errors import ConfigError, InvalidInput

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
    `biased` are the linear layers that have a bias, `transposed` those whose weights lie as [in, out] (Conv1D).
    Two models of the same architecture have the same fingerprint, whatever their weights.
    """

    name: str
    fingerprint: str
    linears: Mapping[str, tuple[int, int]]
    reserved: frozenset[str] = frozenset()
    biased: frozenset[str] = frozenset()
    transposed: frozenset[str] = frozenset()
    prefix: str = ""
    checkpoint: Checkpoint | None = field(default=None, compare=False, repr=False)

    @classmethod
    def from_folder(cls, path: Path, name: str) -> "BaseModel":
        """Read the config in `path`; no weights are read, no code of the model is run, no network is used.

        Raises ConfigError for a folder that holds no causal language model that transformers knows.
        """
        if not (path / "config.json").is_file():
            raise ConfigError(f"model: no config.json in {path}")
        try:
            config, model = _meta_model(path)
        except Exception as error:
            # transformers raises whatever its model code happens to raise on a config that it cannot use
            raise ConfigError(f"model: {path}: unusable config: {type(error).__name__}: {error}") from error
        linears, reserved, transposed = _modules(model)
        if not linears:
            raise ConfigError(f"model: {path}: has no linear layer that an adapter could change")
        shapes = {key: list(parameter.shape) for key, parameter in model.named_parameters()}
        return cls(
            name,
            _fingerprint(config, shapes),
            linears,
            reserved,
            frozenset(module for module in linears if f"{module}.bias" in shapes),
            transposed,
            getattr(model, "base_model_prefix", ""),
            Checkpoint(path),
        )

    def weight(self, module: str) -> torch.Tensor:
        """W of a linear layer, of shape [out, in], as stored.

        Raises InvalidInput, naming it, if the model's files lack it or hold it quantised.
        """
        checkpoint, name = self._stored(module, "weight")
        stored = checkpoint.tensor(name)
        return stored.t() if module in self.transposed else stored

    def weight_blocks(self, module: str) -> Iterator[tuple[slice, torch.Tensor]]:
        """The same in float64, some rows at a time: which, and the rows."""
        checkpoint, name = self._stored(module, "weight")
        return checkpoint.blocks(name, transposed=module in self.transposed)

    def bias(self, module: str) -> torch.Tensor | None:
        """The bias of a linear layer, of shape [out], as stored; None if it has none. Raises InvalidInput."""
        if module not in self.biased:
            return None
        checkpoint, name = self._stored(module, "bias")
        return checkpoint.tensor(name)

    def stored_name(self, name: str) -> str:
        """What the model's files call a tensor: as the model does, or without the prefix of its inner model."""
        files = self.checkpoint.files if self.checkpoint else {}
        short = name.removeprefix(f"{self.prefix}.") if self.prefix else name
        return short if name not in files and short in files else name

    def _stored(self, module: str, part: str) -> tuple[Checkpoint, str]:
        if self.checkpoint is None:
            raise InvalidInput(f"{module}.{part}", None, f"a base model with weights, {self.name!r} is known without")
        name = self.stored_name(f"{module}.{part}")
        out_features, in_features = self.linears[module]
        expected = (out_features,) if part == "bias" else (out_features, in_features)
        shape = self.checkpoint.shape(name)
        if shape != (expected[::-1] if module in self.transposed else expected):
            raise InvalidInput(f"model: {name}: shape", shape, f"{expected}: not packed, not quantised")
        return self.checkpoint, name


def _meta_model(path: Path) -> tuple[dict[str, object], torch.nn.Module]:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]
    return config.to_diff_dict(), model


def _modules(model: Any) -> tuple[dict[str, tuple[int, int]], frozenset[str], frozenset[str]]:
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    linears: dict[str, tuple[int, int]] = {}
    reserved: set[str] = set()
    transposed: set[str] = set()
    for name, module in model.named_modules():
        if module is head:
            reserved.add(name)
        elif isinstance(module, torch.nn.Linear):
            linears[name] = (module.out_features, module.in_features)
        elif isinstance(module, Conv1D):
            linears[name] = (module.weight.shape[1], module.weight.shape[0])
            transposed.add(name)
        elif isinstance(module, torch.nn.Embedding | torch.nn.modules.conv._ConvNd | torch.nn.MultiheadAttention):
            reserved.add(name)
    return linears, frozenset(reserved), frozenset(transposed)


def model_folder(model: str) -> Path:
    """The local folder of a model: itself, or the hub's snapshot, downloaded if need be."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, ignore_patterns=["*.bin", "*.pt", "*.pth", "*.gguf", "original/*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(f"model: got {model!r}, neither a folder nor a model that can be fetched: {error}") from error


def _fingerprint(config: dict[str, object], shapes: dict[str, list[int]]) -> str:
    content = {"config": _architecture(config), "shapes": shapes}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _architecture(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _architecture(item) for key, item in value.items() if key not in _NOT_ARCHITECTURE}
    return value
