"""Against mergekit itself: whole models through its own pipeline, and its random methods with our random numbers."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from polyad.adapters_store.merge import Tensors, method_of
from polyad.adapters_store.merge.counter_random import stream, uniform
from polyad.adapters_store.merge.mergekit_parameters import FIXED, IGNORED, METHODS
from polyad.adapters_store.merge.task import written
from tests.fixtures.mergekit_configs import CONFIGS, merge_models, placed
from tests.fixtures.tiny import llama

with warnings.catch_warnings():
    # mergekit and what it imports warn of what others deprecated
    warnings.simplefilter("ignore")
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.merge_methods import registry
    from mergekit.merge_methods.base import ParameterScope, TensorGroup
    from mergekit.options import MergeOptions


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_configuration_gives_the_same_model(name: str, models: Path, tmp_path: Path) -> None:
    config = CONFIGS[name] | {"dtype": "float32"}
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    _merge_with_mergekit(config, models, theirs)
    merge_models(config, models, ours)
    expected, found = load_file(theirs / "model.safetensors"), load_file(ours / "model.safetensors")
    assert expected.keys() <= found.keys() | {"lm_head.weight"}
    for tensor, value in expected.items():
        if tensor in found:
            torch.testing.assert_close(found[tensor], value, rtol=1e-5, atol=1e-5 * float(value.abs().max()))


def _merge_with_mergekit(config: dict[str, Any], models: Path, out: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parsed = MergeConfiguration.model_validate(yaml.safe_load(placed(config, models)))
        options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True)
        run_merge(parsed, str(out), options)


def test_a_merged_model_in_shards_is_the_same(models: Path, tmp_path: Path) -> None:
    config = CONFIGS["ties, not normalised"]
    merge_models(config, models, tmp_path / "one")
    merge_models(config, models, tmp_path / "many", shard_bytes=2000)
    shards = sorted((tmp_path / "many").glob("*.safetensors"))
    assert len(shards) > 3
    together = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    for name, tensor in load_file(tmp_path / "one" / "model.safetensors").items():
        assert torch.equal(together.pop(name), tensor)
    assert together == {}
    llama().from_pretrained(tmp_path / "many")


@pytest.mark.parametrize("dtype", [torch.bfloat16, None])
def test_a_merged_model_is_whole_and_says_its_dtype(models: Path, tmp_path: Path, dtype: torch.dtype | None) -> None:
    base = tmp_path / "base"
    for name in ("base", "a", "b"):
        shutil.copytree(models / name, tmp_path / name)
    vocabulary = ("vocab.txt", "added_tokens.json", "vocab.json", "merges.txt")
    for name in vocabulary:
        (base / name).write_text(f"content of {name}")
    (base / "training.log").write_text("")
    config = json.loads((base / "config.json").read_text()) | {"torch_dtype": "float32"}
    (base / "config.json").write_text(json.dumps(config))
    merge_models(CONFIGS["task arithmetic"], tmp_path, tmp_path / "out", dtype=dtype)
    assert [(tmp_path / "out" / name).read_text() for name in vocabulary] == [
        f"content of {name}" for name in vocabulary
    ]
    assert not (tmp_path / "out" / "training.log").exists()
    said = {} if dtype is None else {"dtype": "bfloat16", "torch_dtype": "bfloat16"}
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == config | said
    loaded = LlamaForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert loaded.dtype == (dtype or torch.float32)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della", "della_linear"])
def test_random_methods_agree_on_the_same_random_numbers(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    tasks = [torch.randn(20, 30, generator=generator) for _ in range(3)]
    weights, density, epsilon = [0.5, 0.3, 0.9], 0.4, 0.2
    draws = iter(uniform(stream(7, "x", place), 0, 600).view(20, 30) for place in range(3))
    monkeypatch.setattr(torch, "bernoulli", lambda chances: (next(draws) < chances).to(chances.dtype))
    theirs: Any = registry.get(method)
    parameters: dict[str, Any] = {
        "weight": dict(zip("abc", weights, strict=True)),
        "density": dict.fromkeys("abc", density),
        "epsilon": dict.fromkeys("abc", epsilon),
        "rescale": True,
        "normalize": method == "della",
        "int8_mask": False,
        "lambda": 1.0,
    }
    if method.startswith("dare"):
        del parameters["epsilon"]
    zero = torch.zeros(20, 30)
    group = TensorGroup.from_tensors([zero, *tasks], ids=["base", *"abc"], base_index=0)
    expected = theirs.merge_group(group, **parameters)
    ours = method_of(method)
    values = ours.defaults() | {"variant": "mergekit", "density": density}
    values |= {"epsilon": epsilon} if method.startswith("della") else {}
    assert ours.combine is not None
    found = ours.combine(Tensors("x", [task.clone() for task in tasks], weights, values, [{}] * 3, seed=7))
    torch.testing.assert_close(written(found), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_the_parameters_are_those_of_mergekit(method: str) -> None:
    """And its defaults; what polyad does in one way alone is what mergekit does unless told."""
    theirs = {parameter.name: parameter for parameter in registry.get(method).spec.parameters}
    for name, known in METHODS[method].items():
        parameter = theirs.pop(name)
        assert known.per_model == (parameter.scope != ParameterScope.SHARED)
        assert known.default == (None if parameter.required else parameter.default)
    for name, value in FIXED.get(method, {}).items():
        assert theirs.pop(name).default == value
    # task arithmetic makes nothing sparse
    assert theirs.keys() <= IGNORED | ({"density"} if method == "task_arithmetic" else set())
