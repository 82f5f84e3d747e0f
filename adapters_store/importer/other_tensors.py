"""What a fine-tune may have changed beside linear layers: embeddings, norms, heads. No adapter can hold it."""

from collections.abc import Iterator, Mapping, Sequence

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.errors import InvalidInput

_SHOWN = 8


def changed_others(base: BaseModel, tuned: BaseModel) -> list[str]:
    """The tensors of both models' files that belong to no linear layer and differ, or are in one of them alone."""
    one, other = _other_names(base), _other_names(tuned)
    changed = sorted(one.keys() ^ other.keys())
    for name in sorted(one.keys() & other.keys()):
        if base.checkpoint and tuned.checkpoint and not base.checkpoint.same(one[name], tuned.checkpoint, other[name]):
            changed.append(name)
    if base.fingerprint != tuned.fingerprint:
        changed.append("config.json")
    return sorted(changed)


def refuse_others(changed: Sequence[str], ignore: bool) -> None:
    """Raise InvalidInput, naming them, unless they are to be ignored."""
    if changed and not ignore:
        shown = ", ".join(changed[:_SHOWN]) + (f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else "")
        raise InvalidInput("source", shown, "changes of linear layers alone; --ignore-other leaves the others out")


def _other_names(model: BaseModel) -> Mapping[str, str]:
    """What they are called in the files, by what the model calls them."""
    files = model.checkpoint.files if model.checkpoint else {}
    linear = set(_linear_names(model))
    inner = f"{model.prefix}."
    bare = bool(model.prefix) and not any(name.startswith(inner) for name in files)
    return {f"{inner}{name}" if bare else name: name for name in files if name not in linear}


def _linear_names(model: BaseModel) -> Iterator[str]:
    for module in model.linears:
        for part in ("weight", "bias"):
            yield model.stored_name(f"{module}.{part}")
