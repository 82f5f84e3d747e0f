"""The Dockerfile, read by its rules; and its first stage, run as far as that needs no container."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.helm.chart import CHART, server
from tests.helm.chart import render as rendered
from tests.helm.tools import hadolint

ROOT = CHART.parent
TEXT = (CHART / "Dockerfile").read_text()


@dataclass
class Stage:
    """One FROM, and the (instruction, argument) pairs behind it."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def of(self, instruction: str) -> list[str]:
        return [argument for name, argument in self.steps if name == instruction]


def stages() -> dict[str, Stage]:
    found: dict[str, Stage] = {}
    last: Stage | None = None
    text = re.sub(r"\\\n\s*", "", "\n".join(line for line in TEXT.splitlines() if not line.startswith("#")))
    for line in filter(None, text.splitlines()):
        instruction, _, argument = line.partition(" ")
        if instruction == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\S+)", argument).groups()  # type: ignore[union-attr]
            last = found[name] = Stage(name, base)
        elif last is None:
            assert instruction == "ARG", f"{instruction} before FROM"
        else:
            last.steps.append((instruction, argument.strip()))
    return found


STAGES = stages()
KNOWN = {"ARG", "RUN", "COPY", "ENV", "WORKDIR", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD", "USER"}
TARGETS = ("cpu", "gpu")


def test_hadolint_finds_nothing() -> None:
    # Debian's packages are those of the base image's day: their versions cannot be pinned in advance.
    done = hadolint().run("--ignore", "DL3008", "--failure-threshold", "warning", CHART / "Dockerfile")
    assert done.returncode == 0, done.stdout + done.stderr


def test_instructions_are_known_and_nothing_is_added_from_the_net() -> None:
    assert set(STAGES) == {"wheel", "runtime", *TARGETS}
    for stage in STAGES.values():
        assert {name for name, _ in stage.steps} <= KNOWN
        assert stage.base in {"${PYTHON_IMAGE}", *STAGES}
    assert "latest" not in TEXT
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.11-", TEXT, re.MULTILINE)


@pytest.mark.parametrize("name", TARGETS)
def test_targets_end_as_the_charts_user(name: str) -> None:
    user = server(rendered())["securityContext"]["runAsUser"]
    assert STAGES[name].steps[-1] == ("USER", f"{user}:{user}")
    assert f"--uid {user} " in " ".join(STAGES["runtime"].of("RUN"))
    assert json.loads(STAGES["runtime"].of("ENTRYPOINT")[0]) == ["polyad"]


def test_ports_are_those_of_the_pod() -> None:
    pod = server(rendered({"service": {"grpc": {"enabled": True}}}))
    assert STAGES["runtime"].of("EXPOSE")[0].split() == [str(p["containerPort"]) for p in pod["containers"][0]["ports"]]


def test_layers_keep_no_caches() -> None:
    for stage in STAGES.values():
        for step in stage.of("RUN"):
            assert step.count("pip install") == step.count("--no-cache-dir"), step
            assert step.count("apt-get update") == step.count("rm -rf /var/lib/apt/lists/*"), step
            assert step.count("apt-get install") == step.count("--no-install-recommends"), step


def test_versions_are_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    pinned = {name: set(re.findall(r'"([a-z0-9-]+==[^"]+)"', " ".join(STAGES[name].of("RUN")))) for name in STAGES}
    torch = next(line for line in project["dependencies"] if line.startswith("torch=="))
    assert pinned["gpu"] == {torch, *extras["gpu"]}
    assert pinned["cpu"] == {torch}
    lock = (ROOT / "requirements/cpu.lock").read_text().splitlines()
    assert pinned["wheel"] < set(lock)
    assert set(extras["cpu"]) < set(lock)


def test_every_copied_path_exists_and_is_in_the_context() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {path for stage in STAGES.values() for step in stage.of("COPY") if not step.startswith("--from")
              for path in step.split()[:-1]}  # fmt: skip
    assert copied == kept
    assert all((ROOT / path).exists() for path in copied)


@pytest.mark.parametrize("step", [step for stage in STAGES.values() for step in stage.of("RUN")])
def test_shell_of_each_step_is_shell(step: str) -> None:
    done = subprocess.run(["sh", "-n", "-c", step], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_first_stage_makes_the_wheel(tmp_path: Path) -> None:
    """Its COPY and the last of its RUN steps as they stand; the tools that the others install are here already."""
    for step in STAGES["wheel"].of("COPY"):
        *sources, target = step.split()
        for source in map(ROOT.joinpath, sources):
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")
                shutil.copytree(source, tmp_path / target, symlinks=True, ignore=ignored)
            else:
                shutil.copy(source, tmp_path / target)
    command = shlex.split(STAGES["wheel"].of("RUN")[-1])
    assert command[0] == "python"
    done = subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (tmp_path / "wheels").glob("polyad-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "polyad/serve/cli/main.py" in names
    assert any(name.startswith("polyad/kernels/_delta") for name in names)


def test_both_targets_serve_learn_and_keep_bytes_in_s3() -> None:
    meta = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {line.partition("==")[0] for line in (ROOT / "requirements/cpu.lock").read_text().splitlines()}
    extras = meta["optional-dependencies"]
    wanted = [*meta["dependencies"], *extras["cpu"], *extras["learn"], *extras["s3"]]
    names = {re.split(r"[\[<>=!~ ]", line)[0].lower().replace("_", "-") for line in wanted} - {"torch"}
    assert not names - pinned
    installed = re.search(r"\[([a-z0-9,]+)\]", " ".join(STAGES["gpu"].of("RUN")))
    assert installed is not None
    assert set(installed[1].split(",")) == {"gpu", "learn", "s3"}
