"""The wheel, built as a user would get it, in an environment where the repository is not to be seen."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("serve", "adapters_store", "kernels", "proto")
# Stale build outputs would put deleted modules into the wheel.
NOT_SOURCE = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "*.so")


def run(*command: str | Path, cwd: Path) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("source")
    for name in (*PARTS, ".dev"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=NOT_SOURCE)
    for name in ("pyproject.toml", "setup.py", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, copy / name)
    offline = ("--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir", copy / "dist", copy, cwd=copy)
    return next((copy / "dist").glob("polyad-*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds the wheel and nothing else."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(folder, with_pip=False)
    made = folder / "bin" / "python"
    install = ("install", "--no-deps", "--no-index", "--disable-pip-version-check", wheel)
    run(sys.executable, "-m", "pip", "--python", made, *install, cwd=folder)
    return made


def test_wheel_holds_every_source_file_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    inside = {name for name in names if name.startswith("polyad/")}
    assert {name.split("/")[0] for name in names - inside} == {f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"}
    files = [file for part in PARTS for file in (ROOT / part).rglob("*") if file.is_file()]
    sources = {f"polyad/{file.relative_to(ROOT)}" for file in files if file.suffix not in (".pyc", ".so")}
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    built = {f"polyad/kernels/_{name}{suffix}" for name in ("delta", "factors", "fusion", "merging", "sieve")}
    assert inside == {*sources, *built}


def test_only_the_namespace_can_be_imported(python: Path, tmp_path: Path) -> None:
    bare = (*PARTS, "tests", "helm", "examples")
    code = f"from importlib.util import find_spec; print([n for n in {(*bare, 'polyad')} if find_spec(n)])"
    assert run(python, "-I", "-c", code, cwd=tmp_path).strip() == "['polyad']"


def test_modules_come_from_the_wheel(python: Path, tmp_path: Path) -> None:
    code = "import polyad.adapters_store.errors as m; print(m.__file__)"
    assert Path(run(python, "-I", "-c", code, cwd=tmp_path).strip()).is_relative_to(python.parent.parent)


def test_native_kernels_were_built(python: Path, tmp_path: Path) -> None:
    code = "from polyad.kernels import _delta; print(_delta.supported(False)['portable'])"
    assert run(python, "-I", "-c", code, cwd=tmp_path).strip() == "4"


def test_console_script_runs(python: Path, tmp_path: Path) -> None:
    """The dependencies come from the environment of the tests; its .pth files, so its polyad, are not read."""
    purelib = run(python, "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    Path(purelib, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    said = run(python.parent / "polyad", "--help", cwd=tmp_path)
    assert all(verb in said for verb in ("serve", "adapter", "alias", "chat")), said
