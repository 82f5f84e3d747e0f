import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from safetensors.torch import load_file, save_file

from polyad.adapters_store.admission import Limits
from polyad.adapters_store.delta import dense
from polyad.adapters_store.errors import InvalidAdapter
from tests.fixtures.tiny import Adapter, Tiny

TARGETS = ["q_proj", "k_proj", "down_proj"]
Q0 = "base_model.model.model.layers.0.self_attn.q_proj"


def against_residual(tiny: Tiny, folder: Path, **config: Any) -> tuple[PeftModel, Path]:
    """PEFT's model after training, whose base weights are the residual, and what was saved of it."""
    base = copy.deepcopy(tiny.model)
    if config["init_lora_weights"] == "corda":
        config["corda_config"] = CordaConfig(corda_method="kpm")
    lora = LoraConfig(r=3, lora_alpha=5, target_modules=TARGETS, **config)
    if lora.corda_config:
        tokens = torch.randint(0, 48, (1, 64), generator=torch.Generator().manual_seed(1))
        preprocess_corda(base, lora, run_model=lambda: base(tokens))
    model = get_peft_model(base, lora)
    model.save_pretrained(folder / "initial")
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
    model.save_pretrained(folder)
    return model, folder / "initial" / "adapter_model.safetensors"


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("pissa", {"init_lora_weights": "pissa"}),
        ("pissa", {"init_lora_weights": "pissa_niter_4", "use_rslora": True}),
        ("olora", {"init_lora_weights": "olora", "rank_pattern": {"k_proj": 2}}),
        ("pissa", {"init_lora_weights": "pissa", "bias": "lora_only"}),
        ("dora", {"init_lora_weights": "pissa", "use_dora": True}),
    ],
)
def test_against_the_unchanged_base_it_is_as_in_peft(
    biased: Tiny, tmp_path: Path, kind: str, config: dict[str, Any]
) -> None:
    model, initial = against_residual(biased, tmp_path, **config)
    adapter = Adapter(tmp_path, biased.base, initial=initial)
    delta = biased.assert_as(model, adapter)
    assert (adapter.admit().kind, adapter.admit().rank) == (kind, 6)
    term = delta.modules["model.layers.0.self_attn.q_proj"].low_rank
    assert term is not None and term.scale == pytest.approx(5 / (3**0.5 if "use_rslora" in config else 3))


def test_corda(tiny: Tiny, tmp_path: Path) -> None:
    model, initial = against_residual(tiny, tmp_path, init_lora_weights="corda")
    adapter = Adapter(tmp_path, tiny.base, initial=initial)
    tiny.assert_as(model, adapter)
    assert adapter.admit().kind == "corda"


def test_conv1d_layers(gpt2: Tiny, tmp_path: Path) -> None:
    config = LoraConfig(r=3, target_modules=["c_attn", "c_fc"], init_lora_weights="pissa", fan_in_fan_out=True)
    model = get_peft_model(copy.deepcopy(gpt2.model), config)
    model.save_pretrained(tmp_path / "initial")
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data *= 1.5
    model.save_pretrained(tmp_path)
    gpt2.assert_as(model, Adapter(tmp_path, gpt2.base, initial=tmp_path / "initial" / "adapter_model.safetensors"))


def test_olora_of_conv1d_layers_is_refused(gpt2: Tiny, tmp_path: Path) -> None:
    config = LoraConfig(r=3, target_modules=["attn.c_proj"], init_lora_weights="olora", fan_in_fan_out=True)
    get_peft_model(copy.deepcopy(gpt2.model), config).save_pretrained(tmp_path)
    adapter = Adapter(tmp_path, gpt2.base, initial=tmp_path / "adapter_model.safetensors")
    with pytest.raises(InvalidAdapter, match=r"init_lora_weights: got 'olora'.*attn\.c_proj.*Conv1D"):
        adapter.admit()
    assert adapter.left_behind() == []


def test_untrained_it_changes_nothing(tiny: Tiny, tmp_path: Path) -> None:
    model = get_peft_model(
        copy.deepcopy(tiny.model), LoraConfig(r=3, target_modules=TARGETS, init_lora_weights="pissa")
    )
    model.save_pretrained(tmp_path)
    adapter = Adapter(tmp_path, tiny.base, initial=tmp_path / "adapter_model.safetensors")
    for change in adapter.delta().modules.values():
        matrix, _ = dense(change, dtype=torch.float64)
        assert matrix is not None and float(matrix.abs().max()) < 1e-15


@pytest.fixture
def adapter(tiny: Tiny, tmp_path: Path) -> Adapter:
    _, initial = against_residual(tiny, tmp_path, init_lora_weights="pissa")
    return Adapter(tmp_path, tiny.base, initial=initial)


@pytest.mark.parametrize("kind", ["pissa", "pissa_niter_16", "olora", "corda"])
def test_without_initial_factors_it_says_what_to_send(adapter: Adapter, kind: str) -> None:
    adapter.initial = None
    adapter.change_config(init_lora_weights=kind)
    with pytest.raises(InvalidAdapter, match=r"saved before training as `initial`.*path_initial_model_for_weight"):
        adapter.admit()


def test_initial_factors_that_nothing_asks_for(adapter: Adapter) -> None:
    adapter.change_config(init_lora_weights=True)
    with pytest.raises(InvalidAdapter, match="initial: got 'a file', allowed: none: an adapter of kind lora"):
        adapter.admit()


def test_the_converted_rank_is_limited(adapter: Adapter) -> None:
    adapter.limits = Limits(max_rank=5)
    with pytest.raises(InvalidAdapter, match="rank: got 6, allowed: ranks from 1 to 5, as converted"):
        adapter.admit()


def test_dtypes_are_kept_where_all_have_one(adapter: Adapter) -> None:
    assert adapter.initial is not None
    for path in (adapter.weights, adapter.initial):
        save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path)
    term = adapter.delta().modules["model.layers.0.self_attn.q_proj"].low_rank
    assert term is not None and term.a.dtype == term.b.dtype == torch.bfloat16
    adapter.change_tensors(lambda tensors: tensors.update({name: t.float() for name, t in tensors.items()}))
    mixed = adapter.delta().modules["model.layers.0.self_attn.q_proj"].low_rank
    assert mixed is not None and mixed.a.dtype == torch.float32 and mixed.a.equal(term.a.float())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(f"{Q0}.lora_A.weight"), "initial: got 'no lora_A for model.layers.0.self_attn"),
        (
            lambda tensors: tensors.update({f"{Q0}.lora_A.weight": torch.ones(2, 16)}),
            r"initial\..*shape: got \[2, 16\]",
        ),
        (lambda tensors: tensors.update({f"{Q0[:-6]}v_proj.lora_A.weight": torch.ones(3, 16)}), "v_proj is not one of"),
        (lambda tensors: tensors.update({f"{Q0}.lora_B.bias": torch.ones(16)}), "initial: got.*LoRA with a bias"),
        (lambda tensors: tensors[f"{Q0}.lora_B.weight"].fill_(float("nan")), r"initial\..*NaN"),
    ],
)
def test_refused_initial_factors(adapter: Adapter, change: Any, message: str) -> None:
    assert adapter.initial is not None
    tensors = {name: tensor.clone() for name, tensor in load_file(adapter.initial).items()}
    change(tensors)
    save_file(tensors, adapter.initial)
    with pytest.raises(InvalidAdapter, match=message):
        adapter.admit()
    assert adapter.left_behind() == []


def test_initial_factors_are_no_pickle(adapter: Adapter) -> None:
    assert adapter.initial is not None
    torch.save({"a": torch.ones(1)}, adapter.initial)
    with pytest.raises(InvalidAdapter, match="initial: got 'a zip archive"):
        adapter.admit()
