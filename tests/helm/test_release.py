"""A release's life through Helm's own engine: install, upgrade, roll back, uninstall, and an upgrade that fails."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helm.api_double import Cluster, cluster
from tests.helm.chart import CHART, NEEDED, merged
from tests.helm.tools import helm

TRIAL = {"redis": {"trial": {"enabled": True}}, "keys": {"create": True}}


class Release:
    """Helm's verbs on one release of the double's cluster."""

    def __init__(self, state: Cluster, config: Path, folder: Path) -> None:
        self.state = state
        self._options = ("--kubeconfig", str(config), "--namespace", "ns")
        self._folders = {f"HELM_{name}_HOME": str(folder / name) for name in ("CACHE", "CONFIG", "DATA")}

    def helm(self, *arguments: str, values: dict[str, Any] | None = None, good: bool = True) -> str:
        given = ("-f", "-") if values is not None else ()
        tool = helm()
        tool = type(tool)(tool.path, {**tool.environment, **self._folders})
        done = tool.run(*arguments, *given, *self._options, stdin=json.dumps(values))
        assert (done.returncode == 0) == good, done.stdout + done.stderr
        return done.stdout if good else done.stderr

    def install(self, *parts: dict[str, Any]) -> None:
        self.helm("install", "polyad", str(CHART), values=merged(NEEDED, *parts))

    def upgrade(self, *parts: dict[str, Any], good: bool = True) -> str:
        return self.helm("upgrade", "polyad", str(CHART), values=merged(NEEDED, *parts), good=good)

    def server(self) -> dict[str, Any]:
        found: dict[str, Any] = self.state.objects["Deployment", "polyad"]["spec"]
        return found

    def environment(self) -> dict[str, str]:
        (container,) = self.server()["template"]["spec"]["containers"]
        return {entry["name"]: entry.get("value", "") for entry in container["env"]}

    def log(self, kind: str) -> list[tuple[str, str]]:
        return [(verb, name) for verb, found, name in self.state.log if found == kind]


@pytest.fixture
def release(tmp_path: Path) -> Iterator[Release]:
    with cluster(tmp_path) as (state, config):
        yield Release(state, config, tmp_path)


def test_life_of_a_release(release: Release) -> None:
    release.install()
    assert release.server()["replicas"] == 2
    assert release.environment()["POLYAD_SLOTS"] == "8"
    migrations = [verb for verb, _ in release.log("Job")]
    assert migrations.count("create") + migrations.count("apply") == 1

    release.upgrade({"settings": {"slots": 16}, "server": {"replicas": 3}, "service": {"grpc": {"enabled": True}}})
    assert release.environment()["POLYAD_SLOTS"] == "16"
    assert release.server()["replicas"] == 3
    assert len(release.state.objects["Service", "polyad"]["spec"]["ports"]) == 2

    release.helm("rollback", "polyad", "1")
    assert release.environment()["POLYAD_SLOTS"] == "8"
    assert release.server()["replicas"] == 2
    assert len(release.state.objects["Service", "polyad"]["spec"]["ports"]) == 1
    assert [entry["revision"] for entry in json.loads(release.helm("history", "polyad", "-o", "json"))] == [1, 2, 3]

    release.helm("uninstall", "polyad")
    left = {kind for kind, _ in release.state.objects}
    # The bytes of adapters outlive the release.
    assert left == {"PersistentVolumeClaim"}


def test_the_migration_ends_before_servers_change(release: Release) -> None:
    release.install()
    release.state.log.clear()
    release.upgrade({"settings": {"slots": 16}})
    order = [(kind, verb) for verb, kind, _ in release.state.log if kind in ("Job", "Deployment")]
    deployed = next(index for index, (kind, _) in enumerate(order) if kind == "Deployment")
    assert any(kind == "Job" and verb in ("create", "apply") for kind, verb in order[:deployed])
    assert not release.state.names("Job")


def test_a_failed_migration_changes_no_server(release: Release) -> None:
    release.install()
    release.state.jobs_fail = True
    said = release.upgrade({"settings": {"slots": 16}}, good=False)
    assert "pre-upgrade hooks failed" in said
    assert release.environment()["POLYAD_SLOTS"] == "8"
    release.state.jobs_fail = False
    release.upgrade({"settings": {"slots": 16}})
    assert release.environment()["POLYAD_SLOTS"] == "16"


def test_random_keys_live_through_upgrades_and_a_new_install(release: Release) -> None:
    release.install(TRIAL)
    keys = release.state.objects["Secret", "polyad-keys"]["data"]
    assert {len(value) for value in keys.values()} == {64}
    release.upgrade(TRIAL, {"settings": {"slots": 16}})
    assert release.state.objects["Secret", "polyad-keys"]["data"] == keys
    release.helm("uninstall", "polyad")
    assert "polyad-keys" in release.state.names("Secret")
    release.install(TRIAL)
    assert release.state.objects["Secret", "polyad-keys"]["data"] == keys


def test_what_is_switched_off_is_removed(release: Release) -> None:
    release.install(TRIAL, {"ingress": {"enabled": True}, "autoscaling": {"kind": "hpa"}, "learn": {"enabled": True}})
    assert release.state.names("Ingress") == release.state.names("HorizontalPodAutoscaler") == ["polyad"]
    assert "replicas" not in release.server()
    release.upgrade(TRIAL)
    assert not release.state.names("Ingress") + release.state.names("HorizontalPodAutoscaler")
    assert release.state.names("Deployment") == ["polyad"]
    assert release.state.names("StatefulSet") == ["polyad-redis"]
