"""Admission: nothing becomes a version that was not checked here to the last byte."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import torch

from polyad.adapters_store.admission.file_kind import KIND_BYTES, refuse_other_kinds
from polyad.adapters_store.admission.limits import Limits
from polyad.adapters_store.admission.peft_config import PeftConfig, parse_peft_config
from polyad.adapters_store.admission.peft_weights import FILE, Factors, match_weights
from polyad.adapters_store.admission.targets import Target, resolve_targets
from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.delta import FactorSource, Header, TensorEntry, parse_header, write_factors
from polyad.adapters_store.delta.header import DTYPES
from polyad.adapters_store.delta.writer import FACTOR_SUFFIXES
from polyad.adapters_store.errors import InvalidAdapter, TooLarge

_PIECE_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """What came into being: `digest` and `size` (bytes) of the delta file, `rank` the largest of any module,
    `targets` the last parts of the adapted modules' paths, `base` the base model's fingerprint, `declared_base` what
    the adapter itself says it was made for (information only: shapes decide)."""

    digest: str
    size: int
    rank: int
    targets: tuple[str, ...]
    base: str
    modules: int
    declared_base: str | None


def admit(config_bytes: bytes, weights: Path, base: BaseModel, limits: Limits, destination: Path) -> Admitted:
    """Check PEFT's adapter_config.json and adapter_model.safetensors, and write the delta file to `destination`.

    Memory is bounded by the limits on config and header. Blocks: call it in a thread. Raises InvalidAdapter or
    TooLarge, and then `destination` is untouched.
    """
    if len(config_bytes) > limits.max_config_bytes:
        raise TooLarge("adapter_config", len(config_bytes), f"at most {limits.max_config_bytes} bytes")
    config = parse_peft_config(config_bytes)
    _check_ranks(config, limits)
    with open(weights, "rb") as file:
        header = _header(file, limits)
        targets = resolve_targets(config, base)
        factors = match_weights(header, targets, base)
        digest = _write(file, factors, targets, destination)
    return Admitted(
        digest=digest,
        size=destination.stat().st_size,
        rank=max(target.rank for target in targets.values()),
        targets=tuple(sorted({module.rpartition(".")[2] for module in targets})),
        base=base.fingerprint,
        modules=len(targets),
        declared_base=config.base_model_name,
    )


def _check_ranks(config: PeftConfig, limits: Limits) -> None:
    ranks = {"r": config.rank} | {f"rank_pattern.{key[:100]}": rank for key, rank in config.rank_pattern.items()}
    for key, rank in ranks.items():
        if rank > limits.max_rank:
            raise InvalidAdapter(f"adapter_config.{key}", rank, f"ranks from 1 to {limits.max_rank}")


def _header(file: BinaryIO, limits: Limits) -> Header:
    size = os.fstat(file.fileno()).st_size
    if size > limits.max_bytes:
        raise TooLarge(FILE, size, f"at most {limits.max_bytes} bytes")
    refuse_other_kinds(FILE, file.read(KIND_BYTES))
    return parse_header(FILE, file, limits.max_header_bytes, limits.max_tensors)


def _write(file: BinaryIO, factors: Mapping[str, Factors], targets: Mapping[str, Target], destination: Path) -> str:
    sources = {
        module + FACTOR_SUFFIXES[side]: FactorSource(
            entry.dtype, (entry.shape[0], entry.shape[1]), partial(_finite_pieces, file, f"{module}: {side}", entry)
        )
        for module, pair in factors.items()
        for side, entry in (("a", pair.a), ("b", pair.b))
    }
    return write_factors(sources, {module: target.scale for module, target in targets.items()}, destination)


def _finite_pieces(file: BinaryIO, name: str, entry: TensorEntry) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(min(_PIECE_BYTES, entry.size)))
    file.seek(entry.start)
    left = entry.size
    while left:
        piece = buffer[: min(len(buffer), left)]
        if file.readinto(piece) != len(piece):  # type: ignore[attr-defined]  # BinaryIO lacks it, files have it
            raise InvalidAdapter(FILE, f"{name}: end of file", f"{left} more bytes")
        if not bool(torch.frombuffer(piece, dtype=DTYPES[entry.dtype]).isfinite().all()):
            raise InvalidAdapter(f"{FILE}.{name}", "NaN or infinity", "finite values")
        yield piece
        left -= len(piece)
