import collections
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.importer.restricted_pickle import read_pickled_tensors
from tests.fixtures.fuzzing import fuzz


def saved(path: Path, value: object) -> Path:
    torch.save(value, path)
    return path


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32], ids=str
)
def test_tensors_come_back(tmp_path: Path, dtype: torch.dtype) -> None:
    whole = torch.arange(24).view(4, 6).to(dtype)
    value = {"whole": whole, "view": whole[1:3, ::2], "turned": whole.t(), "empty": whole[:0], "scalar": whole[2, 3]}
    read = read_pickled_tensors(saved(tmp_path / "f", value))
    assert isinstance(read, dict) and read.keys() == value.keys()
    for name, tensor in value.items():
        assert read[name].dtype == dtype and read[name].equal(tensor)


def test_containers_numbers_and_parameters(tmp_path: Path) -> None:
    value = {
        "list": [1, 2.5, "three", None, True, (4,)],
        "size": torch.Size([2, 3]),
        "ordered": collections.OrderedDict(a=1, b=[2]),
        "numpy": [numpy.int64(-7), numpy.int32(3), numpy.int64(2**40)],
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    read: Any = read_pickled_tensors(saved(tmp_path / "f", value))
    assert read["list"] == value["list"]
    assert (read["size"], read["ordered"], read["numpy"]) == ((2, 3), {"a": 1, "b": [2]}, [-7, 3, 2**40])
    assert read["parameter"].equal(torch.ones(2))


class Evil:
    def __init__(self, function: Any, *arguments: object) -> None:
        self._reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self._reduced


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Evil(os.system, "touch broken-out"), "posix.system"),
        (Evil(eval, "1"), "__builtin__.eval"),
        (Evil(getattr, "a", "b"), "__builtin__.getattr"),
        (Evil(os.popen, "true"), "os.popen"),
        (Evil(torch.load, "x"), "torch.serialization.load"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (numpy.ones(2), "numpy"),
        (Path("x"), "pathlib"),
        (torch.float32, "torch.float32"),
        (torch.ones(2).to_sparse(), "torch._utils._rebuild_sparse_tensor"),
        ({1, 2}, "__builtin__.set"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_any_other_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: object, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / "f", {"diffs": {}, "abs": value})
    with pytest.raises(InvalidInput, match=rf"f: got '{name}.*dicts, lists, numbers, strings and tensors"):
        read_pickled_tensors(path)
    assert not (tmp_path / "broken-out").exists()


def rezipped(path: Path, change: Any) -> Path:
    content = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(content) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            for changed, data in change(name, old.read(name)):
                new.writestr(changed, data)
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda name, data: [(name, data[:-1] if "/data/" in name else data)],
        lambda name, data: [] if "/data/" in name else [(name, data)],
        lambda name, data: [] if name.endswith("data.pkl") else [(name, data)],
        lambda name, data: [(name, data), (f"again/{name}", data)] if name.endswith("data.pkl") else [(name, data)],
        lambda name, data: [(name, data[:8] if name.endswith("data.pkl") else data)],
    ],
)
def test_a_damaged_archive(tmp_path: Path, change: Any) -> None:
    path = rezipped(saved(tmp_path / "f", {"x": torch.ones(4)}), change)
    with pytest.raises(InvalidInput, match="a file that torch.save wrote in its zip format"):
        read_pickled_tensors(path)


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [((5,), (1,), 0), ((4,), (2,), 0), ((4,), (1,), 1), ((2**40,), (0,), 0), ((2,), (-1,), 3), ((2,), (1,), -1)],
)
def test_tensors_lie_in_their_storage(tmp_path: Path, size: Any, stride: Any, offset: int) -> None:
    value = {"x": torch.ones(4)}
    path = saved(tmp_path / "f", value)

    class Lying(pickle._Pickler):  # type: ignore[name-defined, misc]  # Python's own pickler can be made to lie
        def persistent_id(self, obj: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", 4) if obj == "the storage" else None

    stream = io.BytesIO()
    Lying(stream, 2).dump(Evil(torch._utils._rebuild_tensor_v2, "the storage", offset, size, stride, False, None))
    rezipped(path, lambda name, data: [(name, stream.getvalue() if name.endswith("data.pkl") else data)])
    with pytest.raises(InvalidInput, match="f: got"):
        read_pickled_tensors(path)


def test_no_object_is_given_a_state(tmp_path: Path) -> None:
    """Else a file could change what the table's own functions do."""
    global_and_state = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__)s\x86b."
    path = rezipped(
        saved(tmp_path / "f", {}), lambda name, data: [(name, global_and_state if name.endswith("data.pkl") else data)]
    )
    with pytest.raises(InvalidInput, match="a state for function"):
        read_pickled_tensors(path)


def test_a_few_bytes_cannot_ask_for_much_memory(tmp_path: Path) -> None:
    for code in (b"r\xff\xff\xff\x7f", b"\x96\xff\xff\xff\xff\x0f\0\0\0", b"\x8e\xff\xff\xff\xff\x0f\0\0\0"):
        content = b"\x80\x02}" + code + b"."
        path = rezipped(
            saved(tmp_path / "f", {}),
            lambda name, data, new=content: [(name, new if name.endswith("data.pkl") else data)],
        )
        if code[:1] == b"r":  # a place in the memo, with a number of its own
            assert read_pickled_tensors(path) == {}
        else:
            with pytest.raises(InvalidInput):
                read_pickled_tensors(path)


@pytest.mark.parametrize("content", [b"", b"\x80\x02}.", b"PK\x03\x04", b"{}"])
def test_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(InvalidInput, match="in its zip format"):
        read_pickled_tensors(tmp_path / "f")


def test_the_old_format_is_refused(tmp_path: Path) -> None:
    torch.save({"x": torch.ones(2)}, tmp_path / "f", _use_new_zipfile_serialization=False)
    with pytest.raises(InvalidInput, match="in its zip format"):
        read_pickled_tensors(tmp_path / "f")


@fuzz(80)
@given(at=st.floats(0, 1, exclude_max=True), piece=st.binary(min_size=1, max_size=4))
def test_mutated_pickles_are_read_or_refused(tmp_path: Path, at: float, piece: bytes) -> None:
    path = saved(tmp_path / "f", {"diffs": {"w": {"size": (2, 2), "values": torch.ones(2)}}, "abs": {}})

    def change(name: str, data: bytes) -> list[tuple[str, bytes]]:
        place = int(at * len(data))
        return [(name, data[:place] + piece + data[place + 1 :] if name.endswith("data.pkl") else data)]

    try:
        read_pickled_tensors(rezipped(path, change))
    except InvalidInput:
        pass
