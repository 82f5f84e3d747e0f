"""The folder that an import writes: what `polyad adapter push` takes, with the report beside it."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.importer.report import Report
from polyad.adapters_store.source.adapter_files import CONFIG_FILE, WEIGHTS_FILE

REPORT_FILE = "import_report.json"


def check_new(out: Path) -> None:
    """Raise InvalidInput if there is something that would be overwritten."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InvalidInput("out", str(out), "a folder that is not there yet, or empty")


def write_folder(out: Path, config: Mapping[str, object], tensors: Mapping[str, torch.Tensor], report: Report) -> None:
    """Write config, weights and report, all or none. Tensors come by names without PEFT's prefix."""
    check_new(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        named = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in tensors.items()}
        save_file(named, partial / WEIGHTS_FILE, {"format": "pt"})
        _write_json(partial / CONFIG_FILE, config)
        _write_json(partial / REPORT_FILE, report.as_json())
        partial.chmod(0o755)
        os.replace(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
