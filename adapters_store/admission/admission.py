"""Admission: nothing becomes a version that was not checked here to the last byte."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from polyad.adapters_store.admission.file_kind import KIND_BYTES, refuse_other_kinds
from polyad.adapters_store.admission.limits import Limits
from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.delta import ModuleSource, parse_header, strict_json, write_modules
from polyad.adapters_store.errors import InvalidAdapter, TooLarge
from polyad.adapters_store.formats.config_values import printable
from polyad.adapters_store.formats.reader import Reader
from polyad.adapters_store.formats.tensor_file import TensorFile
from polyad.adapters_store.pace import Pace

FILE = "adapter_model"
INITIAL = "initial"


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """What came into being: `digest` and `size` (bytes) of the delta file, `kind` of adapter (lora, dora, ia3, ...),
    `rank` the largest of any module, `targets` the last parts of the adapted modules' paths, `base` the base model's
    fingerprint, `declared_base` what the adapter itself says it was made for (information only: shapes decide)."""

    digest: str
    size: int
    kind: str
    rank: int
    targets: tuple[str, ...]
    base: str
    modules: int
    declared_base: str | None


def admit(
    config_bytes: bytes,
    weights: Path,
    base: BaseModel,
    limits: Limits,
    destination: Path,
    initial: Path | None = None,
    pace: Pace | None = None,
) -> Admitted:
    """Check an adapter's adapter_config.json and adapter_model.safetensors, and write the delta file to `destination`.

    `initial` are the weights before training, for kinds that are relative to them. Memory is bounded by the limits on
    config and header, and one module's tensors where they are computed. Blocks: call it in a thread; `pace` says when
    it rests. Raises InvalidAdapter or TooLarge, or InvalidInput for base weights that are needed and cannot be used;
    then `destination` is untouched.
    """
    config = _config(config_bytes, limits)
    reader = _reader(config, initial)
    declared_base = printable("base_model_name_or_path", config.get("base_model_name_or_path"))
    with (
        _opened(FILE, weights, limits, reader.index_suffixes) as file,
        _opened(INITIAL, initial, limits) if initial else nullcontext() as first,
    ):
        modules = reader.read(file, base, first)
        _check_limits(modules, limits)
        digest = write_modules(modules, destination, pace)
    return Admitted(
        digest=digest,
        size=destination.stat().st_size,
        kind=reader.kind,
        rank=max((source.rank for source in modules.values()), default=0),
        targets=tuple(sorted({module.rpartition(".")[2] for module in modules})),
        base=base.fingerprint,
        modules=len(modules),
        declared_base=declared_base,
    )


def _config(content: bytes, limits: Limits) -> dict[str, object]:
    if len(content) > limits.max_config_bytes:
        raise TooLarge("adapter_config", len(content), f"at most {limits.max_config_bytes} bytes")
    return strict_json("adapter_config", content)


def _reader(config: Mapping[str, object], initial: Path | None) -> Reader:
    # here, for the readers match patterns with this package's patterns.py, and can be imported before it
    from polyad.adapters_store.formats.registry import reader_of

    reader = reader_of(config)
    if reader.needs_initial and initial is None:
        raise InvalidAdapter(
            "adapter_config.init_lora_weights",
            reader.kind,
            "adapters with their initial factors: it was trained against base weights that these were subtracted from. "
            "Send the adapter_model.safetensors that was saved before training as `initial`, or save with PEFT's "
            "path_initial_model_for_weight_conversion",
        )
    if initial is not None and not reader.needs_initial:
        raise InvalidAdapter(INITIAL, "a file", f"none: an adapter of kind {reader.kind} is not relative to one")
    return reader


@contextmanager
def _opened(field: str, path: Path, limits: Limits, index_suffixes: tuple[str, ...] = ()) -> Iterator[TensorFile]:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limits.max_bytes:
            raise TooLarge(field, size, f"at most {limits.max_bytes} bytes")
        refuse_other_kinds(field, file.read(KIND_BYTES))
        header = parse_header(field, file, limits.max_header_bytes, limits.max_tensors, index_suffixes)
        yield TensorFile(field, file, header)


def _check_limits(modules: Mapping[str, ModuleSource], limits: Limits) -> None:
    for module, source in modules.items():
        if source.rank > limits.max_rank:
            raise InvalidAdapter(f"{module}: rank", source.rank, f"ranks from 1 to {limits.max_rank}, as converted")
        if source.sparse_values > limits.max_sparse_values:
            raise TooLarge(f"{module}: sparse values", source.sparse_values, f"at most {limits.max_sparse_values}")
    sparse = sum(source.sparse_values for source in modules.values())
    if sparse > limits.max_sparse_values_in_all:
        raise TooLarge("sparse values of all modules", sparse, f"at most {limits.max_sparse_values_in_all}")
    size = sum(source.size for source in modules.values())
    if size > limits.max_delta_bytes:
        raise TooLarge("converted adapter", size, f"at most {limits.max_delta_bytes} bytes")
