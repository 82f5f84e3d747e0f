"""The file of deltas with other terms than low-rank ones; test_delta.py has what was there first."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from polyad.adapters_store.delta import Delta, ModuleDelta, Sparse, read_delta, write_delta
from polyad.adapters_store.errors import CorruptBlob
from tests.fixtures.deltas import SHAPES, TERMS, deltas, random_module

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(delta=deltas(torch.float32))
def test_round_trip_is_exact(tmp_path: Path, delta: Delta) -> None:
    digest = write_delta(delta, tmp_path / "delta")
    back = read_delta(tmp_path / "delta")
    assert back.modules.keys() == delta.modules.keys()
    for module, change in delta.modules.items():
        read = back.modules[module]
        assert read.tensors.keys() == change.tensors.keys()
        assert all(read.tensors[part].equal(tensor) for part, tensor in change.tensors.items())
        assert (read.low_rank and read.low_rank.scale) == (change.low_rank and change.low_rank.scale)
        assert (read.sparse and read.sparse.shape) == (change.sparse and change.sparse.shape)
    assert (back.rank, back.size) == (delta.rank, delta.size)
    assert write_delta(Delta(dict(reversed(back.modules.items()))), tmp_path / "again") == digest
    assert hashlib.sha256((tmp_path / "again").read_bytes()).hexdigest() == digest


def test_a_low_rank_delta_has_the_bytes_that_it_always_had(tmp_path: Path) -> None:
    """Digests are versions: these must not change with what else a delta can be."""
    change = random_module((3, 4), ("low_rank",), 1, torch.float32)
    assert change.low_rank is not None
    header = {
        "__metadata__": {
            "polyad.delta": "1",
            "polyad.scales": json.dumps({"m": change.low_rank.scale}).replace(" ", ""),
        },
        "m.low_rank.a": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
        "m.low_rank.b": {"dtype": "F32", "shape": [3, 2], "data_offsets": [32, 56]},
    }
    content = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)
    data = b"".join(tensor.numpy().tobytes() for tensor in (change.low_rank.a, change.low_rank.b))
    write_delta(Delta({"m": change, "unchanged": ModuleDelta()}), tmp_path / "delta")
    assert (tmp_path / "delta").read_bytes() == len(content).to_bytes(8, "little") + content + data


def test_the_safetensors_library_reads_it(tmp_path: Path) -> None:
    delta = Delta({module: random_module(shape, TERMS, 3, torch.float32) for module, shape in SHAPES.items()})
    write_delta(delta, tmp_path / "delta")
    loaded = load_file(tmp_path / "delta")
    expected = {
        f"{module}.{part}": tensor for module, one in delta.modules.items() for part, tensor in one.tensors.items()
    }
    assert loaded.keys() == expected.keys()
    assert all(loaded[name].equal(tensor) for name, tensor in expected.items())


def test_wide_indices(tmp_path: Path) -> None:
    shape = (2**16, 2**16)
    term = Sparse(torch.tensor([0, 2**31, 2**32 - 1]), torch.ones(3).bfloat16(), shape)
    write_delta(Delta({"m": ModuleDelta(sparse=term)}), tmp_path / "delta")
    back = read_delta(tmp_path / "delta").modules["m"].sparse
    assert back is not None
    assert (back.indices.dtype, back.values.dtype, back.shape) == (torch.int64, torch.bfloat16, shape)


Tensors = dict[str, torch.Tensor]
Metadata = dict[str, str]


def rewritten(path: Path, change: Callable[[Tensors, Metadata], None], terms: tuple[str, ...] = TERMS) -> Path:
    """A delta of one module `m` of shape [6, 4], spoilt."""
    write_delta(Delta({"m": random_module((6, 4), terms, 5, torch.float32)}), path)
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    content = path.read_bytes()
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    change(tensors, metadata)
    save_file(tensors, path, metadata)
    return path


def put(name: str, tensor: torch.Tensor) -> Callable[[Tensors, Metadata], None]:
    return lambda tensors, _: tensors.update({name: tensor})


def say(key: str, value: str) -> Callable[[Tensors, Metadata], None]:
    return lambda _, metadata: metadata.update({key: value})


def drop(name: str) -> Callable[[Tensors, Metadata], None]:
    def change(tensors: Tensors, _: Metadata) -> None:
        del tensors[name]

    return change


def spoil_indices(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors, Metadata], None]:
    return lambda tensors, _: tensors.update({"m.sparse.indices": change(tensors["m.sparse.indices"])})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (spoil_indices(lambda indices: indices.flip(0)), "ascending"),
        (spoil_indices(lambda indices: indices.clamp(max=int(indices[-2]))), "each once"),
        (spoil_indices(lambda indices: indices - 100), "0 to 23"),
        (spoil_indices(lambda indices: indices + 24), "0 to 23"),
        (spoil_indices(lambda indices: indices.long()), "torch.int32 for the shape"),
        (spoil_indices(lambda indices: indices[1:].clone()), "as many indices as values"),
        (spoil_indices(lambda indices: indices[None].clone()), "as many indices as values"),
        (spoil_indices(lambda indices: indices.float()), "dtype: got 'F32', allowed: I32, I64"),
        (put("m.sparse.values", torch.ones(3, dtype=torch.int32)), "dtype: got 'I32', allowed: F32"),
        (put("m.row_scale", torch.ones(6, dtype=torch.int32)), "dtype: got 'I32', allowed: F32"),
        (put("m.low_rank.a", torch.ones(2, 4, dtype=torch.int64)), "dtype: got 'I64', allowed: F32"),
        (put("m.row_scale", torch.ones(5)), "one number of out features"),
        (put("m.column_scale", torch.ones(6)), "one number of in features"),
        (put("m.bias", torch.ones(6, 1)), "bias: got"),
        (drop("m.sparse.indices"), "sparse.indices and sparse.values together"),
        (drop("m.sparse.values"), "sparse.indices and sparse.values together"),
        (drop("m.low_rank.b"), "low_rank.a and low_rank.b together"),
        (put("m.other", torch.ones(6)), "m.other"),
        (put("bias", torch.ones(6)), "a tensor of this name"),
        (say("polyad.shapes", "{}"), "exactly the modules with sparse.indices"),
        (say("polyad.shapes", '{"m":[6]}'), "a list of two integers"),
        (say("polyad.shapes", '{"m":[6,4.0]}'), "a list of two integers"),
        (say("polyad.shapes", '{"m":[4,6]}'), "one number of"),
        (say("polyad.shapes", '{"m":[0,4]}'), "both positive"),
        (say("polyad.scales", "{}"), "exactly the modules with low_rank.a"),
        (say("polyad.delta", "1"), "polyad.delta: got '1', allowed: 2"),
        (say("polyad.delta", "3"), "polyad.delta: got '3'"),
        (say("polyad.shapes", "[]"), "polyad.shapes"),
    ],
)
def test_a_spoilt_file_is_corrupt(tmp_path: Path, change: Callable[[Tensors, Metadata], None], message: str) -> None:
    path = rewritten(tmp_path / "delta", change)
    with pytest.raises(CorruptBlob, match=message):
        read_delta(path)


def test_a_module_may_be_called_like_a_term(tmp_path: Path) -> None:
    path = rewritten(tmp_path / "delta", put("n.sparse.bias", torch.ones(6)))
    assert read_delta(path).modules.keys() == {"m", "n.sparse"}


def test_a_low_rank_delta_that_says_format_2_is_corrupt(tmp_path: Path) -> None:
    """Else the same delta would have two digests."""
    path = rewritten(tmp_path / "delta", say("polyad.delta", "2"), ("low_rank",))
    with pytest.raises(CorruptBlob, match="got '2', allowed: 1"):
        read_delta(path)


@QUICK
@given(delta=deltas(torch.float32), place=st.floats(0, 1, exclude_max=True), piece=st.binary(min_size=1, max_size=6))
def test_mutated_files_are_read_or_corrupt(tmp_path: Path, delta: Delta, place: float, piece: bytes) -> None:
    write_delta(delta, tmp_path / "delta")
    content = (tmp_path / "delta").read_bytes()
    at = int(place * len(content))
    (tmp_path / "delta").write_bytes(content[:at] + piece + content[at + len(piece) :])
    try:
        read_delta(tmp_path / "delta")
    except CorruptBlob:
        pass
