"""From one of mergekit's configurations and the folders that it names to a merge, if the models are as it says."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from polyad.adapters_store.checkpoint import Checkpoint
from polyad.adapters_store.errors import InvalidInput, Unsupported
from polyad.adapters_store.merge.full_models import FullMerge
from polyad.adapters_store.merge.mergekit import MergekitConfig
from polyad.adapters_store.merge.setting import layer_of

_LAYERS = ("num_hidden_layers", "n_layer")
_TOKENIZER = "tokenizer.json"
# Any of these is a vocabulary, but only the first can be compared.
_VOCABULARIES = (_TOKENIZER, "tokenizer.model", "vocab.json", "vocab.txt")


def open_models(config: MergekitConfig, folder: Path) -> FullMerge:
    """The merge of the models in `folder`. Raises InvalidInput, Unsupported."""
    base = None if config.base is None else folder / config.base
    folders = [folder / model for model in config.models]
    owner = base or folders[0]
    if config.layers is not None and config.layers != (layers := _layers(owner)):
        allowed = f"[0, {layers}], all layers: polyad neither moves layers nor leaves out any"
        raise Unsupported("slices.0.sources.layer_range", [0, config.layers], allowed)
    if config.same_vocabulary:
        _check_vocabularies(owner, folders)
    dtype = config.out_dtype or config.dtype
    return FullMerge(
        recipe=config.recipe, base=base, folders=folders, dtype=None if dtype is None else getattr(torch, dtype)
    )


def _layers(folder: Path) -> int:
    """As the model's config says, or else its tensors' names."""
    config = _read(folder / "config.json", "models") if (folder / "config.json").is_file() else {}
    for key in _LAYERS:
        if type(config.get(key)) is int:
            return int(config[key])
    return max((layer for name in Checkpoint(folder).files if (layer := layer_of(name)) is not None), default=-1) + 1


def _check_vocabularies(owner: Path, folders: Sequence[Path]) -> None:
    """mergekit puts each model's embeddings in the order of the base model's tokens; here they must lie in it."""
    expected = _vocabulary(owner)
    if expected is None:
        raise InvalidInput("tokenizer_source", owner.name, f"a base model with {_TOKENIZER}")
    for folder in folders:
        if _vocabulary(folder) not in (expected, None):
            raise Unsupported("tokenizer_source", folder.name, f"models whose tokens are those of {owner.name}")


def _vocabulary(folder: Path) -> dict[str, int] | None:
    """The number of each token. None for a model without a tokenizer: mergekit takes it to have the base model's."""
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        return None
    tokenizer = _read(folder / _TOKENIZER, "tokenizer_source")
    try:
        found = tokenizer["model"]["vocab"]
        # Unigram's is a list of tokens and scores.
        pairs = found.items() if isinstance(found, dict) else [(one[0], place) for place, one in enumerate(found)]
        return dict(pairs) | {one["content"]: one["id"] for one in tokenizer.get("added_tokens") or ()}
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise InvalidInput("tokenizer_source", folder.name, f"a {_TOKENIZER} with a vocabulary") from error


def _read(path: Path, field: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        allowed = f"a model with a readable {path.name} ({type(error).__name__})"
        raise InvalidInput(field, path.parent.name, allowed) from error
    if not isinstance(value, dict):
        raise InvalidInput(field, path.parent.name, f"a model whose {path.name} is an object")
    return value
