"""What polyad does not do of mergekit's configurations is refused by name, and never ignored."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from polyad.adapters_store.errors import InvalidInput, Unsupported
from polyad.adapters_store.merge.mergekit import read_mergekit
from tests.fixtures.mergekit_configs import CONFIGS, MODELS, SLICE, merge_models

Change = Callable[[dict[str, Any]], Any]


def _copy(name: str) -> dict[str, Any]:
    copied: dict[str, Any] = yaml.safe_load(yaml.safe_dump(CONFIGS[name]))
    return copied


def _first(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = (config.get("models") or config["slices"][0]["sources"])[0]
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.update(merge_method="karcher"), "merge_method: got 'karcher'"),
        (lambda config: config.update(merge_method="soup"), "merge_method: got 'soup'"),
        (lambda config: config.update(merge_method=["ties"]), "merge_method"),
        (lambda config: config.update(modules={}), "modules"),
        (lambda config: config.update(compress={"rank": 2}), "compress"),
        (lambda config: config.update(slices=CONFIGS[SLICE]["slices"]), "models or slices"),
        (lambda config: config["parameters"].update(nonsense=1), "parameters.nonsense"),
        (lambda config: config["parameters"].update(rescale=True), "parameters.rescale"),
        (lambda config: config.update(parameters=[0.5]), "parameters: got"),
        (lambda config: config.update(dtype="int8"), "dtype"),
        (lambda config: config.update(out_dtype=["float32"]), "out_dtype"),
        (lambda config: config.update(tokenizer_source="union"), "tokenizer_source: got 'union'"),
        (lambda config: config.update(tokenizer_source="a"), "tokenizer_source: got 'a'"),
        (lambda config: config.update(tokenizer={"tokens": {}}), "tokenizer.tokens"),
        (lambda config: config.update(tokenizer={}), "tokenizer.source: got 'union'"),
        (lambda config: config.update(tokenizer="base"), "tokenizer: got 'base'"),
        (lambda config: config.update(chat_template="chatml"), "chat_template: got 'chatml'"),
        (lambda config: config["models"][0].update(model="a+lora"), "folder of a model"),
        (lambda config: config["models"][0].update(model="a@main"), "models.0.model.*revision"),
        (lambda config: config["models"][0].update(model=None), "models.0.model: got None"),
        (lambda config: config["models"][0].update(layer_range=[0, 3]), "models.0.layer_range"),
        (lambda config: config["models"].append(config["models"][0]), "models.0.model.*once"),
        (lambda config: config.update(models={"model": "a"}), "models: got"),
        (lambda config: config["models"].append("a"), "models.3: got 'a'"),
        (lambda config: config["models"][0]["parameters"].update(density=2), "models.0.parameters.density"),
        (lambda config: config["models"][0]["parameters"].update(density=10**400), "models.0.parameters.density"),
        (lambda config: config["models"][0]["parameters"].update({"lambda": 2}), "models.0.parameters.lambda.*all"),
        (lambda config: config["models"][0]["parameters"].pop("weight"), "models.0.parameters.weight: got None"),
        (
            lambda config: config["models"][0]["parameters"].update(weight=[{"filter": "mlp", "value": 1}]),
            "models.0.parameters.weight.*filter",
        ),
        (
            lambda config: config["models"][0]["parameters"].update(weight=[{"pattern": "mlp", "value": 1}]),
            "models.0.parameters.weight.0.*pattern",
        ),
        (lambda config: config.update(base_model=None), "base_model"),
        (lambda config: config.update(base_model={"model": "base"}), "base_model"),
    ],
)
def test_what_is_not_known_is_refused_by_name(change: Change, message: str, models: Path, tmp_path: Path) -> None:
    config = _copy("ties, not normalised")
    change(config)
    with pytest.raises(InvalidInput, match=message):
        merge_models(config, models, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config["slices"].append(config["slices"][0]), "slices: got '2 slices'"),
        (lambda config: config["slices"][0].update(parameters={"t": 0}), "slices.0.parameters"),
        (lambda config: config["slices"][0].update(sources={}), "slices.0.sources"),
        (lambda config: config.update(slices=[[]]), "slices.0: got"),
        (lambda config: _first(config).update(weight=1), "slices.0.sources.0.weight"),
        (lambda config: _first(config).update(parameters={"t": 1}), "slices.0.sources.0.parameters.t"),
        (lambda config: _first(config).pop("layer_range"), "slices.0.sources.0.layer_range: got None"),
        (lambda config: _first(config).update(layer_range=3), "slices.0.sources.0.layer_range: got 3"),
        (lambda config: _first(config).update(layer_range=[0, "3"]), "slices.0.sources.0.layer_range"),
        (lambda config: _first(config).update(layer_range=[1, 3]), "slices.0.sources.0.layer_range.*neither moves"),
        (lambda config: _first(config).update(layer_range=[0, 2]), "one layer_range"),
        (lambda config: [one.update(layer_range=[0, 2]) for one in config["slices"][0]["sources"]], "layer_range.*3"),
        (lambda config: [one.update(layer_range=[0, 4]) for one in config["slices"][0]["sources"]], "layer_range.*3"),
        (lambda config: config.update(parameters={"weight": 1}), "parameters.weight"),
        (lambda config: config.pop("parameters"), "parameters.t: got None"),
    ],
)
def test_of_a_slice_all_that_is_not_done_is_refused(change: Change, message: str, models: Path, tmp_path: Path) -> None:
    config = _copy(SLICE)
    change(config)
    with pytest.raises(InvalidInput, match=message):
        merge_models(config, models, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_layers_are_counted_where_the_config_does_not_say(models: Path, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").symlink_to(models / name / "model.safetensors")
    merge_models(_copy(SLICE), tmp_path, tmp_path / "out")
    (tmp_path / "a" / "config.json").write_text('{"n_layer": 4}')
    with pytest.raises(Unsupported, match=r"layer_range: got \[0, 3\], allowed: \[0, 4\]"):
        merge_models(_copy(SLICE), tmp_path, tmp_path / "again")
    (tmp_path / "a" / "config.json").write_text("[]")
    with pytest.raises(InvalidInput, match="config.json"):
        merge_models(_copy(SLICE), tmp_path, tmp_path / "again")


def _tokenizer_in(folder: Path, models: Path, name: str, text: str | None) -> None:
    """Links to the models, of which one has another tokenizer."""
    for one in MODELS:
        (folder / one).mkdir()
        for path in (models / one).iterdir():
            if (one, path.name) != (name, "tokenizer.json"):
                (folder / one / path.name).symlink_to(path)
    if text is not None:
        (folder / name / "tokenizer.json").write_text(text)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("b", None, None),
        ("base", None, "a base model with tokenizer.json"),
        ("b", "{", "readable tokenizer.json"),
        ("b", '{"model": {"vocab": [5]}}', "with a vocabulary"),
        ("b", '{"model": {"vocab": {"token 1": 0, "token 0": 1}}}', "tokens are those of base"),
        ("b", '{"model": {"vocab": [["token 0", 0.5]]}, "added_tokens": []}', "tokens are those of base"),
    ],
)
@pytest.mark.parametrize("asked", [{"tokenizer_source": "base"}, {"tokenizer": {"source": "base"}}])
def test_tokens_must_be_the_base_models(
    asked: dict[str, Any], name: str, text: str | None, message: str | None, models: Path, tmp_path: Path
) -> None:
    """mergekit would put the embeddings in another order."""
    _tokenizer_in(tmp_path, models, name, text)
    config = _copy("ties, not normalised") | asked
    if message is None:
        merge_models(config, tmp_path, tmp_path / "out")
        return
    with pytest.raises(InvalidInput, match=message):
        merge_models(config, tmp_path, tmp_path / "out")


JUNK: tuple[Any, ...] = (None, [], {}, "x", "", 7, -0.5, True, [7], [[7]], {"x": 1}, [{"x": 1}], 10**400)


def _spoiled(value: Any) -> Iterator[Any]:
    """With each part of it replaced by each piece of junk."""
    yield from JUNK
    if isinstance(value, dict):
        for key, one in value.items():
            yield from (value | {key: other} for other in _spoiled(one))
        yield from (value | {5: other} for other in JUNK)
    elif isinstance(value, list):
        for place, one in enumerate(value):
            yield from ([*value[:place], other, *value[place + 1 :]] for other in _spoiled(one))


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_but_a_refusal_comes_of_junk(name: str) -> None:
    refused = 0
    config = CONFIGS[name] | {"seed": 1, "tokenizer": {"source": "base"}, "dtype": "float16", "out_dtype": "float32"}
    config.pop("tokenizer_source", None)
    for spoiled in filter(lambda one: isinstance(one, dict), _spoiled(config)):
        try:
            read_mergekit(spoiled)
        except InvalidInput:
            refused += 1
    assert refused > 100


def test_values_beyond_the_dtype_are_refused_and_nothing_stays(models: Path, tmp_path: Path) -> None:
    config = _copy("task arithmetic") | {"parameters": {"lambda": 1000, "weight": 1000}}
    for model in config["models"]:
        del model["parameters"]
    with pytest.raises(InvalidInput, match=r"\.weight: got 'values that are not finite as float16'"):
        merge_models(config, models, tmp_path / "out", shard_bytes=1, dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []


def test_linear_says_what_it_takes_the_base_model_for(models: Path, tmp_path: Path) -> None:
    """mergekit puts it among the models, and then misses its weight."""
    with pytest.raises(InvalidInput, match="base_model: got .*with its weight"):
        merge_models(CONFIGS["linear"] | {"base_model": "base"}, models, tmp_path / "out")


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della", "della_linear"])
def test_what_random_methods_keep_is_always_scaled(method: str) -> None:
    config = _copy("ties, not normalised") | {"merge_method": method}
    read_mergekit(config | {"parameters": {"normalize": False, "rescale": True}})
    for scaled in (False, "false", [True, False], [{"filter": "mlp", "value": False}]):
        with pytest.raises(Unsupported, match="parameters.rescale"):
            read_mergekit(config | {"parameters": {"rescale": scaled}})


def test_slerp_needs_to_know_where_it_begins(models: Path, tmp_path: Path) -> None:
    config = CONFIGS[SLICE] | {"base_model": "c"}
    with pytest.raises(InvalidInput, match="t = 0"):
        merge_models(config, models, tmp_path / "out")
