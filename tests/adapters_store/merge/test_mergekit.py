"""Against mergekit itself: whole models through its own pipeline, and its random methods with our random numbers."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from polyad.adapters_store.errors import InvalidInput, PolyadError
from polyad.adapters_store.merge import Tensors, method_of
from polyad.adapters_store.merge.counter_random import stream, uniform
from polyad.adapters_store.merge.full_models import FullMerge
from polyad.adapters_store.merge.mergekit import read_mergekit
from polyad.adapters_store.merge.task import written
from tests.fixtures.tiny import llama

with warnings.catch_warnings():
    # mergekit and what it imports warn of what others deprecated
    warnings.simplefilter("ignore")
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.merge_methods import registry
    from mergekit.merge_methods.base import TensorGroup
    from mergekit.options import MergeOptions

MODELS = ("base", "a", "b", "c")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four small Llamas: a base, and three that were moved away from it."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(MODELS):
        model = llama()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if name != "base":
                    parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
        model.save_pretrained(folder / name)
    return folder


CONFIGS: dict[str, dict[str, Any]] = {
    "linear": {
        "merge_method": "linear",
        "models": [{"model": "a", "parameters": {"weight": 1.0}}, {"model": "b", "parameters": {"weight": 0.3}}],
    },
    "linear, not normalised": {
        "merge_method": "linear",
        "models": [{"model": "a", "parameters": {"weight": 0.6}}, {"model": "b", "parameters": {"weight": 0.3}}],
        "parameters": {"normalize": False},
    },
    "task arithmetic": {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [{"model": "a", "parameters": {"weight": 0.6}}, {"model": "b", "parameters": {"weight": -0.3}}],
        "parameters": {"lambda": 0.7},
    },
    "slerp with gradients and filters, in slices": {
        "slices": [{"sources": [{"model": "a", "layer_range": [0, 3]}, {"model": "b", "layer_range": [0, 3]}]}],
        "merge_method": "slerp",
        "base_model": "a",
        "parameters": {
            "t": [
                {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
                {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]},
                {"value": 0.5},
            ]
        },
    },
    "nuslerp": {
        "merge_method": "nuslerp",
        "base_model": "base",
        "models": [{"model": "a", "parameters": {"weight": 0.6}}, {"model": "b", "parameters": {"weight": 0.3}}],
    },
    "model stock": {"merge_method": "model_stock", "base_model": "base", "models": [{"model": name} for name in "abc"]},
    "ties with gradients": {
        "merge_method": "ties",
        "base_model": "base",
        "models": [
            {"model": "a", "parameters": {"density": [1, 0.7, 0.1], "weight": 1.0}},
            {"model": "b", "parameters": {"density": 0.5, "weight": [0, 0.3, 0.7, 1]}},
            {
                "model": "c",
                "parameters": {"density": 0.33, "weight": [{"filter": "mlp", "value": 0.5}, {"value": 0}]},
            },
        ],
        "parameters": {"normalize": True, "int8_mask": True},
    },
    "ties, not normalised": {
        "merge_method": "ties",
        "base_model": "base",
        "models": [{"model": name, "parameters": {"density": 0.4, "weight": 0.5}} for name in "abc"],
        "parameters": {"normalize": False, "lambda": 1.3},
    },
    "breadcrumbs": {
        "merge_method": "breadcrumbs",
        "base_model": "base",
        "models": [{"model": name, "parameters": {"density": 0.6, "gamma": 0.05, "weight": 0.5}} for name in "ab"],
    },
    "breadcrumbs with ties": {
        "merge_method": "breadcrumbs_ties",
        "base_model": "base",
        "models": [{"model": name, "parameters": {"density": 0.6, "gamma": 0.05, "weight": 0.5}} for name in "abc"],
    },
    "sce": {
        "merge_method": "sce",
        "base_model": "base",
        "models": [{"model": name} for name in "abc"],
        "parameters": {"select_topk": 0.4},
    },
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_configuration_gives_the_same_model(name: str, models: Path, tmp_path: Path) -> None:
    config = CONFIGS[name] | {"dtype": "float32"}
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    _merge_with_mergekit(config, models, theirs)
    _merge(config, models, ours)
    expected, found = load_file(theirs / "model.safetensors"), load_file(ours / "model.safetensors")
    assert expected.keys() <= found.keys() | {"lm_head.weight"}
    for tensor, value in expected.items():
        if tensor in found:
            torch.testing.assert_close(found[tensor], value, rtol=1e-5, atol=1e-5 * float(value.abs().max()))


def _merge_with_mergekit(config: dict[str, Any], models: Path, out: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parsed = MergeConfiguration.model_validate(yaml.safe_load(_placed(config, models)))
        options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True)
        run_merge(parsed, str(out), options)


def _merge(config: dict[str, Any], models: Path, out: Path, **options: Any) -> None:
    read = read_mergekit(yaml.safe_load(_placed(config, models)))
    base = None if read.base is None else Path(read.base)
    full = FullMerge(
        recipe=read.recipe, base=base, folders=list(map(Path, read.models)), dtype=torch.float32, **options
    )
    full.write(out, lambda done, of: None)


def _placed(config: dict[str, Any], models: Path) -> str:
    """The configuration with the models' folders in place of their names."""

    def placed(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: placed(one, name) for name, one in value.items()}
        if isinstance(value, list):
            return [placed(one) for one in value]
        return str(models / value) if value and key in ("model", "base_model") else value

    return yaml.safe_dump(placed(config))


def test_a_merged_model_in_shards_is_the_same(models: Path, tmp_path: Path) -> None:
    config = CONFIGS["ties, not normalised"]
    _merge(config, models, tmp_path / "one")
    _merge(config, models, tmp_path / "many", shard_bytes=2000)
    shards = sorted((tmp_path / "many").glob("*.safetensors"))
    assert len(shards) > 3
    together = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    for name, tensor in load_file(tmp_path / "one" / "model.safetensors").items():
        assert torch.equal(together.pop(name), tensor)
    assert together == {}
    llama().from_pretrained(tmp_path / "many")


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


Change = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.update(merge_method="karcher"), "karcher"),
        (lambda config: config.update(modules={}), "modules"),
        (lambda config: config["parameters"].update(nonsense=1), "nonsense"),
        (lambda config: config.update(dtype="int8"), "dtype"),
        (lambda config: config["models"][0].update(model="a+lora"), "folder of a model"),
        (lambda config: config["models"][0]["parameters"].update(density=2), "density"),
        (lambda config: config.update(base_model=None), "base_model"),
    ],
)
def test_what_is_not_known_is_refused_by_name(change: Change, message: str, models: Path, tmp_path: Path) -> None:
    config: dict[str, Any] = yaml.safe_load(yaml.safe_dump(CONFIGS["ties, not normalised"]))
    change(config)
    with pytest.raises(PolyadError, match=message):
        _merge(config, models, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_slerp_needs_to_know_where_it_begins(models: Path, tmp_path: Path) -> None:
    config = CONFIGS["slerp with gradients and filters, in slices"] | {"base_model": "c"}
    with pytest.raises(InvalidInput, match="t = 0"):
        _merge(config, models, tmp_path / "out")
