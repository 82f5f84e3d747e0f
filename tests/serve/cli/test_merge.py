"""`polyad merge` on adapters and models that the test wrote."""

import copy
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from polyad.adapters_store.delta import dense
from polyad.serve.cli.main import polyad
from tests.fixtures.tiny import Adapter, Tiny, llama


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny.saved(llama(), tmp_path_factory.mktemp("base"))


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path) -> Path:
    """With the adapters a and b, and a link to the base model."""
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        config = LoraConfig(task_type="CAUSAL_LM", r=2 + seed, lora_alpha=5, target_modules=["q_proj", "down_proj"])
        tiny.trained(config, tmp_path / name)
    (tmp_path / "base").symlink_to(tiny.folder)
    return tmp_path


def run(folder: Path, recipe: dict[str, Any], *options: str) -> Result:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return CliRunner().invoke(
        polyad, ["merge", str(folder / "recipe.yaml"), "--out", str(folder / "out"), *options], catch_exceptions=False
    )


TIES: dict[str, Any] = {
    "base": "base",
    "method": "ties",
    "inputs": [{"of": "a"}, {"of": "b", "weight": 0.5}],
    "parameters": {"density": 0.3},
}


@pytest.mark.parametrize("compress", [None, {"rank": 4}])
def test_the_result_can_be_pushed_and_is_the_merge(folder: Path, tiny: Tiny, compress: Any) -> None:
    result = run(folder, TIES | {"compress": compress})
    assert result.exit_code == 0, result.output
    delta = Adapter(folder / "out", tiny.base).delta()
    report = json.loads((folder / "out" / "merge_report.json").read_text())
    assert {one["module"] for one in report["by_module"]} == set(delta.modules)
    for one in report["by_module"]:
        matrix, _ = dense(delta.modules[one["module"]])
        assert matrix is not None
        assert float(matrix.norm()) == pytest.approx(one["norm"], rel=1e-4)
        assert (one["error"] > 0) == (compress is not None)
    assert ("exact" in result.stdout) == (compress is None)
    recipe = json.loads((folder / "out" / "merge_recipe.json").read_text())
    assert recipe["variant"] == "mergekit" and recipe["seed"] == 0


def test_an_adapter_against_a_residual_is_merged_with_its_initial_weights(folder: Path, tiny: Tiny) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], init_lora_weights="pissa")
    model = get_peft_model(copy.deepcopy(tiny.model), config)
    model.save_pretrained(folder / "p" / "initial")
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data *= 1.5
    model.save_pretrained(folder / "p")
    result = run(folder, {"base": "base", "method": "linear", "inputs": [{"of": "p", "weight": 1.0}]})
    assert result.exit_code == 0, result.output
    tiny.assert_as(model, Adapter(folder / "out", tiny.base), rtol=1e-4)


def test_the_report_is_json_and_a_picture(folder: Path) -> None:
    picture = folder / "merged.svg"
    result = run(folder, TIES | {"compress": {"energy": 0.9}}, "--json", "--picture", str(picture))
    report = json.loads(result.stdout)
    assert 0 < report["relative_error"] <= 0.1**0.5 + 1e-6
    assert len(report["by_module"]) == 6 and report["conflict"] > 0
    root = ElementTree.fromstring(picture.read_text())  # noqa: S314
    cells = [element for element in root.iter() if element.tag.endswith("rect")]
    assert len(cells) == 3 * 6


def test_a_merge_of_models_as_mergekit_writes_it(folder: Path, tiny: Tiny) -> None:
    config = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [{"model": "other", "parameters": {"weight": 0.5}}],
        "dtype": "float32",
    }
    other = llama()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    other.save_pretrained(folder / "other")
    result = run(folder, config)
    assert result.exit_code == 0, result.output
    base = load_file(tiny.folder / "model.safetensors")
    for name, tensor in load_file(folder / "out" / "model.safetensors").items():
        torch.testing.assert_close(tensor, base[name] + 0.5, rtol=1e-5, atol=1e-5)
    assert (folder / "out" / "config.json").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "tise"}, "merge methods"),
        ({"inputs": [{"of": "nobody"}]}, "adapter_config.json"),
        ({"base": "nowhere"}, "the folder of the base model"),
        ({"parameters": {"density": 7}}, "density"),
        ({"method": "sce", "parameters": {}, "inputs": [{"of": "a"}, {"of": "b"}]}, "rank, an energy or a density"),
        ({"method": "fisher", "parameters": {}, "compress": {"rank": 2}}, "statistics"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_what_does_not_work_is_one_line_and_leaves_nothing(folder: Path, change: dict[str, Any], message: str) -> None:
    result = run(folder, TIES | change)
    assert result.exit_code == 1
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chat_template": "chatml"}, "chat_template: got 'chatml'"),
        ({"models": None, "slices": [{"sources": [{"model": "base", "layer_range": [0, 2]}]}]}, "allowed: [0, 3]"),
        ({}, "--base"),
    ],
)
def test_what_a_merge_of_models_cannot_do_is_one_line(folder: Path, change: dict[str, Any], message: str) -> None:
    config = {"merge_method": "linear", "models": [{"model": "base"}], "parameters": {"weight": 1}}
    result = run(folder, config | change, *([] if change else ["--base", str(folder / "base")]))
    assert result.exit_code == 1
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert not (folder / "out").exists()


def test_a_file_that_is_no_yaml_is_one_line(folder: Path) -> None:
    (folder / "recipe.yaml").write_text("name: 2026-99-99")
    arguments = ["merge", str(folder / "recipe.yaml"), "--out", str(folder / "out")]
    result = CliRunner().invoke(polyad, arguments, catch_exceptions=False)
    assert result.exit_code == 1
    assert "YAML or JSON" in result.stderr and result.stderr.count("\n") == 1


def test_what_is_there_is_not_overwritten(folder: Path) -> None:
    assert run(folder, TIES).exit_code == 0
    # before anything is computed, or even read
    again = run(folder, TIES | {"inputs": [{"of": "nobody"}]})
    assert again.exit_code == 1 and "--out: got" in again.stderr and "not there yet" in again.stderr


def test_a_link_is_no_new_folder(folder: Path) -> None:
    (folder / "out").symlink_to(folder / "nowhere")
    result = run(folder, TIES)
    assert result.exit_code == 1 and "not there yet" in result.stderr
    assert (folder / "out").is_symlink() and not (folder / "nowhere").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [("recipe.yaml", "not there yet"), ("link", "not there yet"), ("out", "not there yet"), ("no/x.svg", "folder")],
)
def test_a_picture_is_a_new_file_in_a_folder_that_is_there(folder: Path, name: str, message: str) -> None:
    (folder / "link").symlink_to(folder / "nowhere")
    result = run(folder, TIES, "--picture", str(folder / name))
    assert result.exit_code == 1
    assert "--picture: got" in result.stderr and message in result.stderr and result.stderr.count("\n") == 1
    assert not (folder / "out").exists() and not (folder / "nowhere").exists()
    assert yaml.safe_load((folder / "recipe.yaml").read_text()) == TIES


def test_statistics_come_from_files(folder: Path, tiny: Tiny) -> None:
    from safetensors.torch import save_file

    modules = [name for name in tiny.base.linears if name.endswith(("q_proj", "down_proj"))]
    for name in "ab":
        save_file({module: torch.ones(tiny.base.linears[module]) for module in modules}, folder / f"{name}.fisher")
    recipe = {
        "base": "base",
        "method": "fisher",
        "inputs": [{"of": "a"}, {"of": "b"}],
        "statistics": ["a.fisher", "b.fisher"],
        "compress": {"rank": 16},
    }
    assert run(folder, recipe).exit_code == 0
    a, b, merged = (Adapter(folder / name, tiny.base).delta() for name in ("a", "b", "out"))
    for module, change in merged.modules.items():
        one, other, found = (dense(delta.modules[module])[0] for delta in (a, b, merged))
        assert one is not None and other is not None and found is not None and change is not None
        torch.testing.assert_close(found, (one + other) / 2, rtol=1e-4, atol=1e-4)
