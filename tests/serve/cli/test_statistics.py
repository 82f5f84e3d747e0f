"""`polyad statistics`, and merges that find what it wrote."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from polyad.adapters_store.base_model import BaseModel
from polyad.serve.cli.main import polyad
from tests.fixtures.tiny import Adapter, Tiny
from tests.fixtures.tiny_chat import tiny_chat


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tiny_chat(tmp_path_factory.mktemp("base"))
    return Tiny(AutoModelForCausalLM.from_pretrained(folder), BaseModel.from_folder(folder, "tiny"), folder)


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path) -> Path:
    """With the adapters a and b, of the same layers, and data for both."""
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "down_proj"])
        tiny.trained(config, tmp_path / name)
        lines = [{"prompt": f"{name} {number}", "answer": f" is {number}"} for number in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "base").symlink_to(tiny.folder)
    return tmp_path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(polyad, [str(one) for one in arguments], catch_exceptions=False)


def measure(folder: Path, name: str, kind: str, *options: object) -> Result:
    data = folder / f"{name}.jsonl"
    return run("statistics", folder / name, "--base", folder / "base", "--kind", kind, "--data", data, *options)


def merged(folder: Path, method: str, **more: Any) -> Result:
    recipe = {"base": "base", "method": method, "inputs": [{"of": "a"}, {"of": "b"}], "compress": {"rank": 4}, **more}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return run("merge", folder / "recipe.yaml", "--out", folder / "out")


@pytest.mark.parametrize(
    ("kind", "method", "more"),
    [("fisher", "fisher", {}), ("gram", "regmean", {}), ("graft", "graft", {"variant": "learned"})],
)
def test_a_merge_finds_what_lies_beside_its_adapters(
    folder: Path, tiny: Tiny, kind: str, method: str, more: dict[str, Any]
) -> None:
    for name in "ab":
        result = measure(folder, name, kind)
        assert result.exit_code == 0 and f"{name}/{kind}.safetensors" in result.stdout
    result = merged(folder, method, **more)
    assert result.exit_code == 0, result.output
    assert Adapter(folder / "out", tiny.base).delta().modules
    record = json.loads((folder / "out" / "merge_recipe.json").read_text())
    assert len({one["sha256"] for one in record["statistics"]}) == 2


def test_a_merge_without_them_says_how_to_make_them(folder: Path) -> None:
    measure(folder, "a", "fisher")
    result = merged(folder, "fisher")
    assert result.exit_code == 1
    assert "b/fisher.safetensors" in result.stderr and "polyad statistics ADAPTER --kind fisher" in result.stderr


def test_those_of_another_kind_are_refused(folder: Path) -> None:
    for name in "ab":
        measure(folder, name, "gram")
    result = merged(folder, "fisher", statistics=["a/gram.safetensors", "b/gram.safetensors"])
    assert result.exit_code == 1 and "fisher statistics" in result.stderr


def test_a_method_that_needs_none_takes_none(folder: Path) -> None:
    result = merged(folder, "ties", statistics=["a/x", "b/x"])
    assert result.exit_code == 1 and "ties needs no statistics" in result.stderr


def test_the_layers_can_be_named(folder: Path) -> None:
    assert measure(folder, "a", "gram", "--targets", "q_proj,o_proj", "--examples", 2).exit_code == 0
    from safetensors import safe_open

    with safe_open(folder / "a" / "gram.safetensors", "pt") as file:
        assert {name.split(".")[-1] for name in file.keys()} == {"q_proj", "o_proj"}
        assert file.metadata()["examples"] == "2"
    wrong = measure(folder, "a", "gram", "--targets", "qproj")
    assert wrong.exit_code == 1 and "targets: got 'qproj', allowed: down_proj" in wrong.stderr
