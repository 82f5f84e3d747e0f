import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from polyad.adapters_store.admission import Limits
from polyad.adapters_store.errors import ConfigError, InvalidInput
from polyad.adapters_store.importer import Method, import_full
from tests.fixtures.tiny import PREFIX, Adapter, Tiny, llama

Q0, DOWN1 = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"
FULL_RANK = Method(rank=99)


def tune(model: PreTrainedModel, change: Callable[[str, torch.Tensor], bool] = lambda name, _: "_proj" in name) -> None:
    """Move the parameters that `change` chooses."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if change(name, parameter):
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def tuned(tiny: Tiny, folder: Path, *parts: str) -> Tiny:
    model = copy.deepcopy(tiny.model)
    tune(model, lambda name, _: any(part in name for part in parts or ("_proj",)))
    return Tiny.saved(model, folder)


def admitted(tiny: Tiny, folder: Path) -> Adapter:
    adapter = Adapter(folder, tiny.base, Limits(max_rank=64))
    adapter.destination.parent.mkdir()
    return adapter


def assert_becomes(base: Tiny, adapter: Adapter, target: Tiny, atol: float = 1e-5) -> None:
    """With the adapter, every linear layer of the base is that of the target."""
    delta = adapter.delta()
    for module, (_, in_features) in base.base.linears.items():
        x = torch.randn(4, in_features, dtype=torch.float64)
        expected = x @ target.weight(module).t() + target.bias(module)
        torch.testing.assert_close(base.changed(module, delta)(x), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("method", [FULL_RANK, Method(energy=1), Method(density=1)], ids=str)
@pytest.mark.parametrize("base", ["tiny", "biased"])
def test_kept_whole_it_is_the_fine_tune(
    request: pytest.FixtureRequest, tmp_path: Path, base: str, method: Method
) -> None:
    tiny: Tiny = request.getfixturevalue(base)
    target = tuned(tiny, tmp_path / "tuned")
    report = import_full(target.folder, tiny.base, method, tmp_path / "out")
    assert report.relative_error < 1e-6
    assert report.modules.keys() == tiny.base.linears.keys()
    assert set(report.biases) == tiny.base.biased
    adapter = admitted(tiny, tmp_path / "out")
    assert_becomes(tiny, adapter, target)
    assert adapter.admit().kind == ("sft" if method.is_sparse else "lora")


def test_conv1d_layers(gpt2: Tiny, tmp_path: Path) -> None:
    target = tuned(gpt2, tmp_path / "tuned", "attn.c_attn", "mlp.c_fc")
    for name, method in (("lora", FULL_RANK), ("sft", Method(density=1))):
        import_full(target.folder, gpt2.base, method, tmp_path / name)
        assert_becomes(gpt2, admitted(gpt2, tmp_path / name), target)


def test_peft_reads_it_too(biased: Tiny, tmp_path: Path) -> None:
    target = tuned(biased, tmp_path / "tuned", "q_proj", "down_proj.bias", "layers.2.mlp.up_proj.weight")
    import_full(target.folder, biased.base, Method(energy=0.9), tmp_path / "out")
    peft_model = PeftModel.from_pretrained(copy.deepcopy(biased.model), tmp_path / "out").double()
    delta = admitted(biased, tmp_path / "out").delta()
    for module, (_, in_features) in biased.base.linears.items():
        x = torch.randn(1, 3, in_features, dtype=torch.float64)
        with torch.no_grad():
            expected = peft_model.get_submodule(PREFIX + module)(x)
        torch.testing.assert_close(biased.changed(module, delta)(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", [Method(rank=3), Method(energy=0.8), Method(density=0.1)], ids=str)
def test_the_errors_are_those_of_the_admitted_adapter(tiny: Tiny, tmp_path: Path, method: Method) -> None:
    target = tuned(tiny, tmp_path / "tuned", "q_proj", "up_proj", "layers.0.mlp.down_proj")
    report = import_full(target.folder, tiny.base, method, tmp_path / "out")
    delta = admitted(tiny, tmp_path / "out").delta()
    squares: dict[str, list[float]] = {}
    for module in tiny.base.linears:
        change = target.weight(module) - tiny.weight(module)
        rest = target.weight(module) - tiny.changed(module, delta)(torch.eye(change.shape[1]).double()).t()
        if change.any():
            one = report.modules[module]
            assert one.norm == pytest.approx(float(change.norm()), rel=1e-6)
            assert one.error == pytest.approx(float(rest.norm()), rel=1e-4)
            for kind in (module.split(".")[-1], "all"):
                pair = squares.setdefault(kind, [0.0, 0.0])
                pair[0], pair[1] = pair[0] + float(rest.square().sum()), pair[1] + float(change.square().sum())
        else:
            assert module not in report.modules
    expected = {kind: (error / whole) ** 0.5 for kind, (error, whole) in squares.items()}
    assert report.relative_error == pytest.approx(expected.pop("all"), rel=1e-4)
    assert {kind: error for kind, (_, error) in report.by_kind().items()} == pytest.approx(expected, rel=1e-4)
    written = json.loads((tmp_path / "out" / "import_report.json").read_text())
    assert written == json.loads(json.dumps(report.as_json()))
    assert 0 < written["relative_error"] < 1
    assert written["by_kind"]["q_proj"]["modules"] == 3


def test_ranks_differ_by_module(tiny: Tiny, tmp_path: Path) -> None:
    model = copy.deepcopy(tiny.model)
    for module, rank in ((Q0, 1), (DOWN1, 3), ("model.layers.2.mlp.down_proj", 3)):
        weight = model.get_submodule(module).weight
        weight.data += torch.randn(weight.shape[0], rank) @ torch.randn(rank, weight.shape[1])
    target = Tiny.saved(model, tmp_path / "tuned")
    report = import_full(target.folder, tiny.base, Method(energy=0.99999), tmp_path / "out")
    assert (report.modules[Q0].kept, report.modules[DOWN1].kept) == (1, 3)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["rank_pattern"]) == (3, {r"model\.layers\.0\.self_attn\.q_proj": 1})
    assert_becomes(tiny, admitted(tiny, tmp_path / "out"), target, atol=1e-2)


@pytest.mark.parametrize(("method", "kind"), [(FULL_RANK, "bitfit"), (Method(density=0.1), "sft")])
def test_biases_alone(biased: Tiny, tmp_path: Path, method: Method, kind: str) -> None:
    target = tuned(biased, tmp_path / "tuned", "q_proj.bias")
    report = import_full(target.folder, biased.base, method, tmp_path / "out")
    assert (report.modules, report.relative_error, len(report.biases)) == ({}, 0.0, 3)
    adapter = admitted(biased, tmp_path / "out")
    assert adapter.admit().kind == kind
    assert_becomes(biased, adapter, target, atol=1e-6)


def test_other_changes_are_refused_by_name_or_listed(tiny: Tiny, tmp_path: Path) -> None:
    target = tuned(tiny, tmp_path / "tuned", "q_proj", "norm", "embed", "lm_head")
    with pytest.raises(InvalidInput, match=r"source: got 'lm_head.weight, model.embed_tokens.weight, .*--ignore-other"):
        import_full(target.folder, tiny.base, FULL_RANK, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    report = import_full(target.folder, tiny.base, FULL_RANK, tmp_path / "out", ignore_other=True)
    assert {"model.norm.weight", "lm_head.weight", "model.embed_tokens.weight"} < set(report.ignored)
    assert "model.layers.2.post_attention_layernorm.weight" in report.ignored
    assert len(report.ignored) == 2 + 1 + 2 * 3
    assert_becomes(tiny, admitted(tiny, tmp_path / "out"), target)


def test_another_dtype_is_no_change(tiny: Tiny, tmp_path: Path) -> None:
    model = copy.deepcopy(tiny.model).bfloat16()
    rounded = Tiny.saved(copy.deepcopy(model).float(), tmp_path / "base")
    model.get_submodule(Q0).weight.data *= 2
    target = Tiny.saved(model, tmp_path / "tuned")
    report = import_full(target.folder, rounded.base, FULL_RANK, tmp_path / "out")
    assert report.modules.keys() == {Q0}
    assert report.ignored == ()


def test_files_may_name_tensors_with_or_without_the_inner_models_prefix(gpt2: Tiny, tmp_path: Path) -> None:
    model = copy.deepcopy(gpt2.model)
    tune(model, lambda name, _: "c_fc.weight" in name or name == "transformer.ln_f.weight")
    model.transformer.save_pretrained(tmp_path / "tuned")
    model.config.save_pretrained(tmp_path / "tuned")
    with pytest.raises(InvalidInput, match="source: got 'transformer.ln_f.weight', allowed"):
        import_full(tmp_path / "tuned", gpt2.base, FULL_RANK, tmp_path / "out")
    report = import_full(tmp_path / "tuned", gpt2.base, FULL_RANK, tmp_path / "out", ignore_other=True)
    assert {module.split(".")[-1] for module in report.modules} == {"c_fc"}


def test_another_architecture_is_refused_or_listed(tiny: Tiny, tmp_path: Path) -> None:
    changed = llama(rope_theta=7.0)
    changed.load_state_dict(tiny.model.state_dict())
    tune(changed)
    target = Tiny.saved(changed, tmp_path / "tuned")
    with pytest.raises(InvalidInput, match=r"source: got 'config.json'"):
        import_full(target.folder, tiny.base, FULL_RANK, tmp_path / "out")
    other = Tiny.saved(llama(attention_bias=True), tmp_path / "other")
    with pytest.raises(InvalidInput, match="a model with the linear layers of tiny"):
        import_full(other.folder, tiny.base, FULL_RANK, tmp_path / "out")


def test_what_else_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="a model whose linear layers differ"):
        import_full(tiny.folder, tiny.base, FULL_RANK, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"no config.json"):
        import_full(tmp_path, tiny.base, FULL_RANK, tmp_path / "out")
    target = tuned(tiny, tmp_path / "tuned")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(InvalidInput, match="out: got .*a folder that is not there yet, or empty"):
        import_full(target.folder, tiny.base, FULL_RANK, tmp_path / "full")
    model = copy.deepcopy(tiny.model)
    model.get_submodule(Q0).weight.data[0, 0] = torch.nan
    broken = Tiny.saved(model, tmp_path / "broken")
    with pytest.raises(InvalidInput, match=f"source: {Q0}.weight: got 'NaN or infinity'"):
        import_full(broken.folder, tiny.base, FULL_RANK, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "full", "tuned"]


def test_modules_are_seen_to_go_by(tiny: Tiny, tmp_path: Path) -> None:
    target, seen = tuned(tiny, tmp_path / "tuned"), []
    import_full(
        target.folder,
        tiny.base,
        FULL_RANK,
        tmp_path / "out",
        track=lambda modules: (seen.append(m) or m for m in modules),
    )
    assert seen == sorted(tiny.base.linears)
