import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from polyad.adapters_store.checkpoint import INDEX_FILE, SINGLE_FILE, Checkpoint
from polyad.adapters_store.errors import InvalidInput
from tests.fixtures.tiny import Tiny, llama


@pytest.mark.parametrize("shard_size", ["5GB", "4KB"])
def test_it_reads_what_transformers_saved(tmp_path: Path, shard_size: str) -> None:
    model = llama(attention_bias=True)
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / INDEX_FILE).exists() == (shard_size == "4KB")
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.files.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert checkpoint.shape(name) == tuple(tensor.shape)
        assert checkpoint.tensor(name).equal(tensor)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("block_bytes", [1, 200, 10**6])
def test_blocks_are_the_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transposed: bool, dtype: torch.dtype, block_bytes: int
) -> None:
    monkeypatch.setattr("polyad.adapters_store.checkpoint._BLOCK_BYTES", block_bytes)
    matrix = torch.randn(7, 5).to(dtype)
    save_file({"m": matrix}, tmp_path / SINGLE_FILE)
    expected = (matrix.t() if transposed else matrix).double()
    blocks = list(Checkpoint(tmp_path).blocks("m", transposed=transposed))
    assert torch.cat([block for _, block in blocks]).equal(expected)
    assert all(expected[rows].equal(block) for rows, block in blocks)
    assert len(blocks) == (
        1 if block_bytes == 10**6 else -(-len(expected) // max(block_bytes // 8 // expected.shape[1], 1))
    )


def test_a_missing_tensor_is_named(tiny: Tiny) -> None:
    checkpoint = Checkpoint(tiny.folder)
    for method in (checkpoint.tensor, checkpoint.shape, lambda name: list(checkpoint.blocks(name))):
        with pytest.raises(InvalidInput, match="model: no.weight: got 'no such tensor'"):
            method("no.weight")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fn])
def test_quantised_weights_are_refused_by_name(tmp_path: Path, dtype: torch.dtype) -> None:
    save_file({"q.weight": torch.ones(4, 4).to(dtype)}, tmp_path / SINGLE_FILE)
    checkpoint = Checkpoint(tmp_path)
    for method in (checkpoint.tensor, lambda name: list(checkpoint.blocks(name))):
        with pytest.raises(InvalidInput, match=r"model: q.weight: got '[IUF].*quantised weights cannot be used"):
            method("q.weight")


def test_an_index_names_no_file_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_file({"m": torch.ones(2)}, tmp_path / "outside.safetensors")
    (tmp_path / "model" / INDEX_FILE).write_text(json.dumps({"weight_map": {"m": "../outside.safetensors"}}))
    with pytest.raises(InvalidInput, match="model: m: got 'outside.safetensors'"):
        Checkpoint(tmp_path / "model").tensor("m")


@pytest.mark.parametrize(
    "files",
    [{}, {SINGLE_FILE: b"pickle"}, {INDEX_FILE: b"{}"}, {INDEX_FILE: b"["}, {INDEX_FILE: b"[]"}, {INDEX_FILE: b"\xff"}],
    ids=str,
)
def test_a_folder_without_usable_weights(tmp_path: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match="allowed: a folder with model.safetensors") as refusal:
        Checkpoint(tmp_path).tensor("m")
    assert str(tmp_path.parent) not in str(refusal.value)
