import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file

from polyad.adapters_store.delta import Delta, LowRank, ModuleDelta, read_delta, write_delta
from polyad.adapters_store.errors import CorruptBlob, InvalidInput


def make_delta(dtype: torch.dtype = torch.float32, reverse: bool = False) -> Delta:
    generator = torch.Generator().manual_seed(3)
    terms = {
        f"model.layers.{layer}.q_proj": LowRank(
            torch.randn(2 + layer, 5, generator=generator).to(dtype),
            torch.randn(7, 2 + layer, generator=generator).to(dtype),
            0.1 + layer / 3,
        )
        for layer in range(3)
    }
    return low_rank_delta(dict(reversed(terms.items())) if reverse else terms)


def low_rank_delta(terms: Mapping[str, LowRank]) -> Delta:
    return Delta({module: ModuleDelta(low_rank=term) for module, term in terms.items()})


def low_rank(delta: Delta) -> dict[str, LowRank]:
    return {module: change.low_rank for module, change in delta.modules.items() if change.low_rank}


def rewrite(path: Path, metadata: dict[str, str] | None) -> None:
    save_file(load_file(path), path, metadata)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_safetensors_library_reads_what_was_written(tmp_path: Path, dtype: torch.dtype) -> None:
    delta = make_delta(dtype)
    write_delta(delta, tmp_path / "delta")
    with safetensors.safe_open(tmp_path / "delta", "pt") as file:
        metadata = file.metadata()
        assert len(file.keys()) == 2 * len(delta.modules)
        for module, term in low_rank(delta).items():
            assert file.get_tensor(f"{module}.low_rank.a").equal(term.a)
            assert file.get_tensor(f"{module}.low_rank.b").equal(term.b)
            assert file.get_tensor(f"{module}.low_rank.a").dtype == dtype
    assert metadata["polyad.delta"] == "1"
    assert json.loads(metadata["polyad.scales"]) == {key: term.scale for key, term in low_rank(delta).items()}


def test_round_trip(tmp_path: Path) -> None:
    delta = make_delta()
    write_delta(delta, tmp_path / "delta")
    back = read_delta(tmp_path / "delta")
    assert back.modules.keys() == delta.modules.keys()
    for module, term in low_rank(delta).items():
        assert low_rank(back)[module].a.equal(term.a)
        assert low_rank(back)[module].b.equal(term.b)
        assert low_rank(back)[module].scale == term.scale
    assert (back.rank, back.size) == (4, 4 * (2 + 3 + 4) * (5 + 7))
    assert (delta.rank, delta.size) == (back.rank, back.size)


def test_digest_is_that_of_the_file_and_ignores_order_and_layout(tmp_path: Path) -> None:
    digest = write_delta(make_delta(), tmp_path / "one")
    assert digest == hashlib.sha256((tmp_path / "one").read_bytes()).hexdigest()
    strided = {
        module: LowRank(term.a.t().contiguous().t(), term.b, term.scale)
        for module, term in low_rank(make_delta(reverse=True)).items()
    }
    assert write_delta(low_rank_delta(strided), tmp_path / "two") == digest
    changed = low_rank(make_delta())
    module = next(iter(changed))
    changed[module] = LowRank(changed[module].a, changed[module].b, 0.25)
    assert write_delta(low_rank_delta(changed), tmp_path / "three") != digest


def test_data_lies_in_name_order_behind_an_aligned_header(tmp_path: Path) -> None:
    write_delta(make_delta(), tmp_path / "delta")
    content = (tmp_path / "delta").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert length % 8 == 0
    assert list(header) == sorted(header)
    del header["__metadata__"]
    ends = [entry["data_offsets"] for entry in header.values()]
    assert [begin for begin, _ in ends] == [0, *(end for _, end in ends[:-1])]
    assert 8 + length + ends[-1][1] == len(content)


def test_mixed_dtypes_that_leave_a_tensor_unaligned(tmp_path: Path) -> None:
    half = LowRank(torch.ones(1, 3, dtype=torch.float16), torch.ones(4, 1, dtype=torch.float16), 1.0)
    full = LowRank(torch.randn(1, 3), torch.randn(4, 1), 1.0)
    write_delta(low_rank_delta({"a": half, "b": full}), tmp_path / "delta")
    back = low_rank(read_delta(tmp_path / "delta"))["b"].a
    assert back.equal(full.a)
    assert back.data_ptr() % 4 == 0
    assert load_file(tmp_path / "delta")["b.low_rank.a"].equal(full.a)


def test_reading_copies_nothing_and_never_changes_the_file(tmp_path: Path) -> None:
    delta = low_rank_delta({"m": LowRank(torch.zeros(64, 4096), torch.zeros(4096, 64), 1.0)})
    digest = write_delta(delta, tmp_path / "delta")
    back = low_rank(read_delta(tmp_path / "delta"))["m"]
    assert 0 < back.b.data_ptr() - back.a.data_ptr() == back.a.nbytes
    back.a.fill_(1)
    assert hashlib.sha256((tmp_path / "delta").read_bytes()).hexdigest() == digest


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "delta").write_bytes(b"old")
    with pytest.raises(InvalidInput, match=r"float64.*F32, F16, BF16$"):
        write_delta(
            low_rank_delta({"m": LowRank(torch.ones(1, 2).double(), torch.ones(2, 1), 1.0)}), tmp_path / "delta"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["delta"]
    assert (tmp_path / "delta").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("a", "b", "scale"),
    [((2, 3), (4, 1), 1.0), ((2,), (4, 2), 1.0), ((0, 3), (4, 0), 1.0), ((2, 3), (4, 2), float("nan"))],
)
def test_a_term_that_is_no_product_is_refused(a: tuple[int, ...], b: tuple[int, ...], scale: float) -> None:
    with pytest.raises(InvalidInput, match="low_rank"):
        LowRank(torch.zeros(a), torch.zeros(b), scale)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"polyad.delta": "2", "polyad.scales": "{}"},
        {"polyad.delta": "1"},
        {"polyad.delta": "1", "polyad.scales": "{}"},
        {"polyad.delta": "1", "polyad.scales": '{"m":"1"}'},
        {"polyad.delta": "1", "polyad.scales": '{"m":1.0,"n":1.0}'},
    ],
)
def test_a_safetensors_file_that_is_no_delta_is_corrupt(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    write_delta(low_rank_delta({"m": LowRank(torch.zeros(1, 2), torch.zeros(2, 1), 1.0)}), tmp_path / "delta")
    rewrite(tmp_path / "delta", metadata)
    with pytest.raises(CorruptBlob):
        read_delta(tmp_path / "delta")


@pytest.mark.parametrize("keep", [0, 7, 8, 100, -1])
def test_a_truncated_file_is_corrupt(tmp_path: Path, keep: int) -> None:
    write_delta(make_delta(), tmp_path / "delta")
    (tmp_path / "delta").write_bytes((tmp_path / "delta").read_bytes()[:keep])
    with pytest.raises(CorruptBlob):
        read_delta(tmp_path / "delta")
