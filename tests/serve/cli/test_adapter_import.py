import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from polyad.serve.cli.main import polyad
from tests.fixtures.tiny import llama

Run = Callable[..., Result]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with `base`, and `tuned`, whose every query projection differs."""
    model = llama()
    model.save_pretrained(tmp_path / "base")
    for name, parameter in model.named_parameters():
        if "q_proj" in name:
            parameter.data += torch.randn(parameter.shape)
    model.save_pretrained(tmp_path / "tuned")
    return tmp_path


@pytest.fixture
def import_it(models: Path) -> Run:
    def invoke(*options: str, source: str = "tuned", kind: str = "full", **more: Any) -> Result:
        paths = [str(models / source), "--base", str(models / "base"), "--out", str(models / "out")]
        return CliRunner().invoke(polyad, ["adapter", "import", *paths, "--kind", kind, *options], **more)

    return invoke


def test_it_says_what_is_lost_by_module_kind(models: Path, import_it: Run) -> None:
    result = import_it("--rank", "4")
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["modules", "changed", "relative", "error"] in rows
    report = json.loads((models / "out" / "import_report.json").read_text())
    error = f"{report['by_kind']['q_proj']['relative_error']:.2%}"
    assert ["q_proj", "3", error] in rows and ["all", "3", error] in rows
    assert rows[-1] == ["wrote", str(models / "out")]
    files = {"adapter_config.json", "adapter_model.safetensors", "import_report.json"}
    assert {path.name for path in (models / "out").iterdir()} == files
    assert json.loads((models / "out" / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"


@pytest.mark.parametrize("options", [("--energy", "0.9"), ("--density", "0.1")])
def test_json_is_the_report(models: Path, import_it: Run, options: tuple[str, ...]) -> None:
    result = import_it(*options, "--json")
    assert json.loads(result.stdout) == json.loads((models / "out" / "import_report.json").read_text())


def test_what_is_imported_can_be_pushed(fake: Any, run: Run, models: Path, import_it: Run) -> None:
    import_it("--rank", "4")
    assert run("adapter", "push", "tuned", str(models / "out")).exit_code == 0
    assert fake.service.pushed[0][1] == (models / "out" / "adapter_model.safetensors").read_bytes()


def test_composable_sft(models: Path, import_it: Run) -> None:
    diff = {"size": torch.Size([16, 16]), "index_steps": [1, 2], "values": torch.ones(2)}
    content = {"diffs": {"model.layers.0.self_attn.q_proj.weight": diff}, "abs": {"model.norm.weight": torch.ones(16)}}
    torch.save(content, models / "pytorch_diff.bin")
    result = import_it(source="pytorch_diff.bin", kind="composable-sft")
    assert result.exit_code == 1
    assert "model.norm.weight" in result.stderr and "--ignore-other" in result.stderr
    result = import_it("--ignore-other", source="pytorch_diff.bin", kind="composable-sft")
    assert result.exit_code == 0, result.output
    assert "left out: model.norm.weight" in result.stdout
    assert "0.00%" in result.stdout


def test_progress_is_shown_on_a_terminal_only(import_it: Run) -> None:
    result = import_it("--rank", "4", env={"FORCE_COLOR": "1", "TERM": "xterm"})
    assert "importing" in result.stderr and "importing" not in result.stdout


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ((), 1, "one of rank, energy and density"),
        (("--rank", "0"), 1, "rank: got 0"),
        (("--rank", "4", "--density", "0.1"), 1, "one of rank, energy and density"),
        (("--rank", "four"), 2, "'four' is not a valid integer"),
    ],
)
def test_one_method_is_given(models: Path, import_it: Run, options: tuple[str, ...], code: int, message: str) -> None:
    result = import_it(*options)
    assert result.exit_code == code
    assert message in result.stderr
    assert not (models / "out").exists()


def test_failures_are_one_line(models: Path, import_it: Run) -> None:
    result = import_it("--rank", "4", kind="composable-sft")
    assert result.exit_code == 2 and "composable-sft is exact" in result.stderr
    (models / "base" / "config.json").unlink()
    result = import_it("--rank", "4")
    assert result.exit_code == 1
    assert result.stderr.startswith("polyad: model: no config.json in") and result.stderr.count("\n") == 1
