from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.importer import import_composable_sft
from tests.fixtures.tiny import Adapter, Tensors, Tiny

Q0, K1, UP1 = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.k_proj", "model.layers.1.mlp.up_proj"


def encoded(diff: torch.Tensor) -> dict[str, Any]:
    """A dense diff as the authors describe their format: the first dimension is the fastest, indices are steps."""
    flat = diff.permute(*reversed(range(diff.dim()))).flatten()
    indices = flat.nonzero()[:, 0].tolist()
    steps = [numpy.int64(one) if i == 0 else one - indices[i - 1] for i, one in enumerate(indices)]
    return {"size": diff.size(), "index_steps": steps, "values": flat[indices]}


def sparse_diff(shape: tuple[int, ...], count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    diff = torch.zeros(shape)
    places = torch.randperm(diff.numel(), generator=generator)[:count]
    diff.view(-1)[places] = torch.randn(count, generator=generator)
    return diff


def saved(folder: Path, diffs: Tensors, absolute: Tensors | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    content = {"diffs": {name: encoded(diff) for name, diff in diffs.items()}, "abs": absolute or {}}
    torch.save(content, folder / "pytorch_diff.bin")
    return folder


def applied(tiny: Tiny, diffs: Tensors, absolute: Tensors) -> Tensors:
    """The model's parameters, as the authors change them."""
    parameters = {name: parameter.detach().double().clone() for name, parameter in tiny.model.named_parameters()}
    for name, diff in diffs.items():
        parameters[name] += diff.double()
    return parameters | {name: value.double() for name, value in absolute.items()}


@pytest.mark.parametrize("base", ["tiny", "biased", "gpt2"])
def test_it_is_what_the_authors_apply(request: pytest.FixtureRequest, tmp_path: Path, base: str) -> None:
    tiny: Tiny = request.getfixturevalue(base)
    modules = sorted(tiny.base.linears)[:4]
    diffs, absolute = {}, {}
    for seed, module in enumerate(modules):
        parameter = tiny.model.get_submodule(module).weight
        diffs[f"{module}.weight"] = sparse_diff(tuple(parameter.shape), 9, seed)
    for module in modules[:2] if base != "tiny" else []:
        size = tiny.base.linears[module][0]
        diffs[f"{module}.bias"] = sparse_diff((size,), 3, size)
    for module in modules[2:] if base != "tiny" else []:
        absolute[f"{module}.bias"] = torch.randn(tiny.base.linears[module][0])
    report = import_composable_sft(saved(tmp_path / "sft", diffs, absolute), tiny.base, tmp_path / "out")
    assert (report.relative_error, report.modules.keys()) == (0.0, set(modules))
    adapter = Adapter(tmp_path / "out", tiny.base)
    delta = adapter.delta()
    assert adapter.admit().kind == "sft"
    expected = applied(tiny, diffs, absolute)
    for module in modules:
        weight = expected[f"{module}.weight"]
        weight = weight.t() if module in tiny.base.transposed else weight
        x = torch.randn(3, weight.shape[1], dtype=torch.float64)
        bias = expected.get(f"{module}.bias", torch.zeros(weight.shape[0]).double())
        torch.testing.assert_close(tiny.changed(module, delta)(x), x @ weight.t() + bias, rtol=1e-6, atol=1e-6)


def test_the_file_itself_and_names_of_the_inner_model_will_do(gpt2: Tiny, tmp_path: Path) -> None:
    diffs = {"h.0.attn.c_attn.weight": sparse_diff((16, 48), 5, 1)}
    source = saved(tmp_path / "sft", diffs) / "pytorch_diff.bin"
    report = import_composable_sft(source, gpt2.base, tmp_path / "out")
    assert report.modules.keys() == {"transformer.h.0.attn.c_attn"}


def test_others_are_refused_by_name_or_listed(tiny: Tiny, tmp_path: Path) -> None:
    diffs = {f"{Q0}.weight": sparse_diff((16, 16), 5, 1), "model.norm.weight": sparse_diff((16,), 2, 2)}
    source = saved(tmp_path / "sft", diffs, {"score.weight": torch.ones(2, 16)})
    with pytest.raises(InvalidInput, match="source: got 'model.norm.weight, score.weight', allowed: changes of linear"):
        import_composable_sft(source, tiny.base, tmp_path / "out")
    report = import_composable_sft(source, tiny.base, tmp_path / "out", ignore_other=True)
    assert set(report.ignored) == {"model.norm.weight", "score.weight"}
    assert Adapter(tmp_path / "out", tiny.base).delta().modules.keys() == {Q0}


def test_indices_are_decoded_in_64_bits(tiny: Tiny, tmp_path: Path) -> None:
    """In 32 bits this one would come back as an index inside."""
    source = tmp_path / "sft"
    source.mkdir()
    diff = {"size": torch.Size([16, 16]), "index_steps": [3, 2**32], "values": torch.ones(2)}
    torch.save({"diffs": {f"{Q0}.weight": diff}, "abs": {}}, source / "pytorch_diff.bin")
    with pytest.raises(InvalidInput, match=r"index_steps: got \[.*4294967299\], allowed: indices from 0 to 255"):
        import_composable_sft(source, tiny.base, tmp_path / "out")


GOOD = {"size": torch.Size([16, 16]), "index_steps": [3, 5], "values": torch.ones(2)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "pytorch_diff.bin: got 'list', allowed: a dict"),
        ({"diffs": []}, "diffs: got 'list'"),
        ({"abs": None}, "abs: got 'NoneType'"),
        ({}, "a change of linear layers"),
        ({"diffs": {f"{Q0}.weight": {**GOOD, "more": 1}}}, "size, index_steps and values"),
        ({"diffs": {f"{Q0}.weight": {**GOOD, "size": (16, -16)}}}, "size: got"),
        ({"diffs": {f"{Q0}.weight": {**GOOD, "size": (8, 16)}}}, r"size: got \(8, 16\), allowed: \(16, 16\)"),
        ({"diffs": {f"{Q0}.weight": {**GOOD, "size": [16, 16]}}}, "size: got"),
        ({"diffs": {f"{Q0}.weight": {**GOOD, "values": torch.ones(3)}}}, "one step for each value"),
        ({"diffs": {f"{Q0}.weight": {**GOOD, "values": [1.0, 2.0]}}}, "values: got 'list'"),
        ({"diffs": {f"{Q0}.weight": {**GOOD, "values": torch.tensor([1, torch.nan])}}}, "finite numbers"),
        ({"diffs": {f"{Q0}.weight": {**GOOD, "index_steps": [3, 0]}}}, "each index once"),
        ({"diffs": {f"{Q0}.weight": {**GOOD, "index_steps": [3, -4]}}}, r"got \[-1, 48\]"),
        ({"diffs": {f"{Q0}.weight": {**GOOD, "index_steps": [3, 253]}}}, "indices from 0 to 255"),
        ({"diffs": {f"{Q0}.weight": {**GOOD, "index_steps": ["a", "b"]}}}, "index_steps: got 'list'"),
        ({"diffs": {f"{Q0}.weight": {**GOOD, "index_steps": [2**70, 1]}}}, "index_steps: got 'list'"),
        ({"diffs": {f"{Q0}.bias": {**GOOD, "size": (16,)}}}, "no such parameter of base model 'tiny'"),
        ({"abs": {f"{Q0}.bias": torch.ones(16)}}, "no such parameter of base model 'tiny'"),
        ({"abs": {f"{Q0}.weight": torch.ones(16, 16)}}, "a whole weight"),
        ({"abs": {f"{Q0}.weight": "text"}}, "abs: .*got 'str'"),
    ],
)
def test_refused(tiny: Tiny, tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "sft").mkdir()
    torch.save(content, tmp_path / "sft" / "pytorch_diff.bin")
    with pytest.raises(InvalidInput, match=message):
        import_composable_sft(tmp_path / "sft", tiny.base, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bias_comes_once_and_has_the_shape_of_the_base_model_s(biased: Tiny, tmp_path: Path) -> None:
    diffs = {f"{Q0}.bias": sparse_diff((16,), 3, 1)}
    with pytest.raises(InvalidInput, match="both a diff and an abs"):
        import_composable_sft(
            saved(tmp_path / "sft", diffs, {f"{Q0}.bias": torch.ones(16)}), biased.base, tmp_path / "out"
        )
    with pytest.raises(InvalidInput, match=rf"{Q0}.bias: got \(3,\), allowed: \(16,\) of base model"):
        import_composable_sft(saved(tmp_path / "sft", {}, {f"{Q0}.bias": torch.ones(3)}), biased.base, tmp_path / "out")
