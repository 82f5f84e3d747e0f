import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from polyad.adapters_store.delta import parse_header
from polyad.adapters_store.errors import InvalidAdapter, TooLarge
from tests.fixtures.fuzzing import fuzz

ENTRY = {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}


def file_bytes(header: Any, data: bytes = bytes(8)) -> bytes:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(content)) + content + data


@contextmanager
def opened(path: Path, content: bytes) -> Iterator[BinaryIO]:
    path.write_bytes(content)
    with open(path, "rb") as file:
        yield file


def entry(**changes: Any) -> dict[str, Any]:
    return {"t": {**ENTRY, **changes}}


def test_it_sees_what_the_library_sees(tmp_path: Path) -> None:
    tensors = {"x": torch.ones(3, 4), "y": torch.ones(5, dtype=torch.bfloat16), "z": torch.ones(2, 0)}
    with opened(tmp_path / "f", save(tensors, {"key": "value"})) as file:
        header = parse_header("file", file, 10_000, 10)
        assert header.metadata == {"key": "value"}
        assert header.tensors.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert header.tensors[name].shape == tuple(tensor.shape)
            file.seek(header.tensors[name].start)
            assert file.read(header.tensors[name].size) == tensor.view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "lies inside it"),
        (b"1234567", "lies inside it"),
        (struct.pack("<Q", 2**63), "lies inside it"),
        (struct.pack("<Q", 100) + b"{}", "lies inside it"),
        (file_bytes(b" {}", b""), "begins with"),
        (file_bytes(b"[]", b""), "begins with"),
        (file_bytes(b"{", b""), "valid JSON"),
        (file_bytes(b"{\xff}", b""), "UTF-8"),
        (file_bytes(b'{"t":1,"t":2}', b""), "each key once"),
        (file_bytes(b'{"t":NaN}', b""), "no NaN"),
        (file_bytes(b'{"t":' + b"[" * 5000, b""), "deep nesting"),
        (file_bytes(b'{"t":' + b"9" * 5000 + b"}", b""), "valid JSON"),
        (file_bytes({"__metadata__": {"a": 1}}, b""), "object of strings"),
        (file_bytes({"__metadata__": []}, b""), "object of strings"),
        (file_bytes({"t": 1}), "dtype, shape and data_offsets"),
        (file_bytes({"t": {**ENTRY, "more": 1}}), "dtype, shape and data_offsets"),
        (file_bytes(entry(dtype="F64")), "F32, F16, BF16"),
        (file_bytes(entry(dtype=["F32"])), "F32, F16, BF16"),
        (file_bytes(entry(shape=[1.0, 2])), "list of integers"),
        (file_bytes(entry(shape=[True, 2])), "list of integers"),
        (file_bytes(entry(shape=[-1, -2])), "list of integers"),
        (file_bytes(entry(shape=[2**31])), "list of integers"),
        (file_bytes(entry(shape="12")), "list of integers"),
        (file_bytes(entry(shape=[1] * 8 + [2])), "at most 8 dimensions"),
        (file_bytes(entry(data_offsets=[0, 8, 8])), "begin, end"),
        (file_bytes(entry(data_offsets=[8, 0])), "8 bytes"),
        (file_bytes(entry(data_offsets=[0, 4])), "8 bytes"),
        (file_bytes(entry(shape=[2**31 - 1] * 8)), "bytes for F32"),
        (file_bytes({"a": ENTRY, "b": ENTRY}), "holes or overlap"),
        (file_bytes(entry(data_offsets=[8, 16]), bytes(16)), "holes or overlap"),
        (file_bytes(entry(), bytes(9)), "where the last tensor ends"),
        (file_bytes(entry(), bytes(7)), "where the last tensor ends"),
    ],
)
def test_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with opened(tmp_path / "f", content) as file, pytest.raises(InvalidAdapter, match=message):
        parse_header("file", file, 100_000, 10)


def test_limits(tmp_path: Path) -> None:
    content = file_bytes({"a": ENTRY, "b": {**ENTRY, "data_offsets": [8, 16]}}, bytes(16))
    length = int.from_bytes(content[:8], "little")
    with opened(tmp_path / "f", content) as file:
        assert len(parse_header("file", file, length, 2).tensors) == 2
        with pytest.raises(TooLarge, match=f"header: got {length}"):
            parse_header("file", file, length - 1, 2)
        with pytest.raises(TooLarge, match="tensors: got 2"):
            parse_header("file", file, length, 1)


def agrees_with_library(path: Path, content: bytes) -> None:
    """Whatever we accept, the library accepts too; whatever we refuse, we refuse with our own errors."""
    with opened(path, content) as file:
        try:
            header = parse_header("file", file, 100_000, 100)
        except (InvalidAdapter, TooLarge):
            return
    try:
        with safe_open(path, "pt") as library:
            assert set(library.keys()) == header.tensors.keys()
    except SafetensorError as error:
        raise AssertionError(f"accepted {content!r}") from error


VALID = save({"x": torch.ones(2, 3), "y": torch.ones(4, dtype=torch.float16)}, {"key": "value"})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@fuzz(300)
@given(content=st.binary(max_size=200))
def test_random_bytes(tmp_path: Path, content: bytes) -> None:
    agrees_with_library(tmp_path / "f", content)
    agrees_with_library(tmp_path / "f", file_bytes(b"{" + content))


@fuzz(300)
@given(position=st.integers(0, len(VALID) - 1), value=st.binary(max_size=3), drop=st.integers(0, 3))
def test_mutated_file(tmp_path: Path, position: int, value: bytes, drop: int) -> None:
    agrees_with_library(tmp_path / "f", VALID[:position] + value + VALID[position + drop :])


@fuzz(300)
@given(
    entries=st.dictionaries(
        st.sampled_from(["a", "b", "__metadata__"]) | st.text(max_size=4),
        JSON
        | st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "F16", "BF16", "I8"]),
                "shape": st.lists(st.integers(-1, 4), max_size=3),
                "data_offsets": st.lists(st.sampled_from([0, 2, 4, 8, 16, 32, 2**62]), min_size=2, max_size=2),
            }
        ),
        max_size=3,
    ),
    size=st.sampled_from([0, 2, 4, 8, 16, 32]),
)
def test_lying_header(tmp_path: Path, entries: dict[str, Any], size: int) -> None:
    agrees_with_library(tmp_path / "f", file_bytes(entries, bytes(size)))


def test_the_fuzz_reaches_valid_files(tmp_path: Path) -> None:
    with opened(tmp_path / "f", VALID) as file:
        assert parse_header("file", file, 100_000, 100).metadata == {"key": "value"}
