"""What the manifests mean: probes, shutdown, security, secrets, scaling, the network."""

import warnings
from typing import Any

import pytest
import yaml

from tests.helm.chart import CHART, environment, one, render, server

with warnings.catch_warnings():
    # torch warns, while it is imported, of what it deprecated itself.
    warnings.simplefilter("ignore")
    from polyad.adapters_store.registry import Snapshot
    from polyad.serve.api.access import OPEN_PATHS
    from polyad.serve.config import Settings
    from polyad.serve.service import Access, Caller

KINDS = yaml.safe_load((CHART / "files/gpu-kinds.yaml").read_text())
TRIAL = {"redis": {"trial": {"enabled": True}}, "keys": {"create": True}}
EVERY_POD = ({"learn": {"enabled": True}}, TRIAL)


def pods(manifests: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {m["metadata"]["name"]: m["spec"]["template"]["spec"] for m in manifests if "template" in m.get("spec", {})}


def test_every_pod_is_locked_down() -> None:
    found = pods(render(*EVERY_POD))
    assert set(found) == {"polyad", "polyad-learn", "polyad-migrate", "polyad-redis"}
    for pod in found.values():
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
            }  # fmt: skip


def test_secrets_are_only_named() -> None:
    manifests = render({"model": {"hubToken": {"name": "hub"}}})
    assert not [manifest for manifest in manifests if manifest["kind"] == "Secret"]
    given = environment(server(manifests)["containers"][0])
    for name in ("POLYAD_API_KEY", "POLYAD_ADMIN_KEY", "POLYAD_METRICS_KEY", "POLYAD_REDIS_URL", "HF_TOKEN"):
        assert "secretKeyRef" in given[name], name


def test_made_keys_are_a_hook_that_upgrades_do_not_see() -> None:
    secret = one(render(TRIAL), "Secret")
    assert secret["metadata"]["annotations"]["helm.sh/hook"] == "pre-install"
    assert secret["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert len(set(secret["data"].values())) == 3
    assert all(len(value) >= 64 for value in secret["data"].values())
    assert one(render(TRIAL), "Secret")["data"] != secret["data"]


def test_probes_ask_what_needs_no_key() -> None:
    container = server(render({"server": {"startupSeconds": 901}}))["containers"][0]
    paths = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/health", "readiness": "/ready", "liveness": "/health"}
    assert set(paths.values()) <= OPEN_PATHS
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 901


@pytest.mark.parametrize(("drain", "pause"), [(30, 10), (0.5, 0), (600, 45)])
def test_grace_period_holds_pause_and_both_drains(drain: float, pause: int) -> None:
    pod = server(render({"settings": {"drain_s": drain}, "server": {"preStopSeconds": pause}}))
    assert pod["terminationGracePeriodSeconds"] >= pause + 2 * drain + 15
    lifecycle = pod["containers"][0].get("lifecycle")
    assert lifecycle == ({"preStop": {"sleep": {"seconds": pause}}} if pause else None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_kind_places_and_sizes(kind: str) -> None:
    pod = server(render({"gpu": {"kind": kind, "count": 4}}))
    preset, container = KINDS[kind], pod["containers"][0]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 4}
    asked = {"cpu": 4 * preset["cpu"], "memory": f"{4 * preset['memoryGi']}Gi"}
    assert container["resources"]["requests"] == asked
    assert container["args"][:3] == ["serve", "org/model", "--tensor-parallel-size=4"]
    (term,) = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"][0]["values"] == preset["products"]
    memory = next(volume for volume in pod["volumes"] if volume["name"] == "shared-memory")
    assert memory["emptyDir"]["sizeLimit"] == f"{4 * preset['sharedGi']}Gi"


def test_own_resources_and_affinity_win_over_the_kind() -> None:
    pod = server(render({"gpu": {"kind": "l4"}, "server": {"resources": {"requests": {"memory": "99Gi"}},
                                                           "affinity": {"podAntiAffinity": {}}}}))  # fmt: skip
    assert pod["containers"][0]["resources"]["requests"] == {"cpu": 4, "memory": "99Gi"}
    assert pod["affinity"] == {"podAntiAffinity": {}}


def test_cpu_profile_asks_for_no_gpu() -> None:
    manifests = render({"profile": "cpu", "gpu": {"kind": "l4", "count": 8}, "learn": {"enabled": True}})
    for name in ("polyad", "polyad-learn"):
        pod = pods(manifests)[name]
        assert "limits" not in (pod["containers"][0].get("resources") or {})
        assert "affinity" not in pod
        assert pod["containers"][0]["image"] == "polyad:0.1.0-cpu"
    assert server(manifests)["containers"][0]["args"] == ["serve", "org/model"]


def test_image_by_digest_tag_or_release() -> None:
    digest = "sha256:" + "0f" * 32
    for image, expected in (
        ({}, "polyad:0.1.0-gpu"),
        ({"tag": "x"}, "polyad:x"),
        ({"tag": "x", "digest": digest}, f"polyad@{digest}"),
    ):
        assert server(render({"image": image}))["containers"][0]["image"] == expected


@pytest.mark.parametrize("kind", ["hpa", "keda"])
def test_who_scales_alone_says_how_many(kind: str) -> None:
    manifests = render({"autoscaling": {"kind": kind, "keda": {"prometheus": "http://p"}}})
    assert "replicas" not in one(manifests, "Deployment")["spec"]
    scaler = one(manifests, {"hpa": "HorizontalPodAutoscaler", "keda": "ScaledObject"}[kind])
    assert scaler["spec"]["scaleTargetRef"]["name"] == "polyad"
    assert one(render(), "Deployment")["spec"]["replicas"] == 2


def test_migration_runs_before_servers_change_and_needs_nothing_of_the_release() -> None:
    for values, when in (({}, "pre-install,pre-upgrade"), (TRIAL, "pre-upgrade")):
        job = one(render(values), "Job")
        assert job["metadata"]["annotations"]["helm.sh/hook"] == when
        pod = job["spec"]["template"]["spec"]
        assert "serviceAccountName" not in pod
        assert all("emptyDir" in volume for volume in pod["volumes"])
        assert pod["containers"][0]["args"] == ["registry", "migrate"]


def test_statefulset_keeps_its_caches() -> None:
    manifests = render({"server": {"kind": "StatefulSet", "state": {"size": "7Gi", "storageClass": "fast"}}})
    spec = one(manifests, "StatefulSet")["spec"]
    claim = spec["volumeClaimTemplates"][0]
    assert (claim["metadata"]["name"], claim["spec"]["storageClassName"]) == ("state", "fast")
    assert "state" not in [volume["name"] for volume in spec["template"]["spec"]["volumes"]]
    assert one(manifests, "Service", spec["serviceName"])["spec"]["clusterIP"] == "None"


def test_selectors_find_their_pods_and_no_others() -> None:
    manifests = render(*EVERY_POD)
    labels = {m["metadata"]["name"]: m["spec"]["template"]["metadata"]["labels"] for m in manifests
              if "template" in m.get("spec", {})}  # fmt: skip

    def found(selector: dict[str, str]) -> set[str]:
        return {name for name, own in labels.items() if selector.items() <= own.items()}

    assert found(one(manifests, "Service", "polyad")["spec"]["selector"]) == {"polyad"}
    assert found(one(manifests, "Service", "polyad-redis")["spec"]["selector"]) == {"polyad-redis"}
    assert found(one(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"]) == {"polyad"}
    for name in ("polyad", "polyad-learn"):
        assert found(one(manifests, "Deployment", name)["spec"]["selector"]["matchLabels"]) == {name}


def test_network_lets_through_what_is_needed() -> None:
    plain = one(render(), "NetworkPolicy")["spec"]
    assert plain["policyTypes"] == ["Ingress", "Egress"]
    assert [port["port"] for rule in plain["ingress"] for port in rule["ports"]] == [8000]
    assert [port["port"] for rule in plain["egress"] for port in rule["ports"]] == [53, 53, 6379, 443]
    closed = {"https": False, "dns": [], "redis": [], "clients": []}
    shut = one(render({"networkPolicy": closed}), "NetworkPolicy")["spec"]
    assert not shut["ingress"]
    assert not shut["egress"]
    trial = render(TRIAL, {"service": {"grpc": {"enabled": True}}, "serviceMonitor": {"enabled": True}})
    servers = one(trial, "NetworkPolicy", "polyad")["spec"]
    assert [port["port"] for rule in servers["ingress"] for port in rule["ports"]] == [8000, 9000, 8000]
    redis = one(trial, "NetworkPolicy", "polyad-redis")["spec"]
    assert not redis.get("egress")
    assert redis["ingress"][0]["from"] == [
        {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "polyad", "app.kubernetes.io/instance": "polyad"}}}
    ]


def test_blobs_are_shared_or_in_a_store() -> None:
    claimed = render()
    mounts = {mount["name"]: mount["mountPath"] for mount in server(claimed)["containers"][0]["volumeMounts"]}
    assert environment(server(claimed)["containers"][0])["POLYAD_BLOBS"] == mounts["blobs"]
    assert one(claimed, "PersistentVolumeClaim")["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    store = render({"blobs": {"kind": "objectStore", "objectStore": {"url": "s3://b/x", "secret": "s3"}}})
    container = server(store)["containers"][0]
    assert environment(container)["POLYAD_BLOBS"] == "s3://b/x"
    assert container["envFrom"] == [{"secretRef": {"name": "s3"}}]
    assert "blobs" not in {volume["name"] for volume in server(store)["volumes"]}
    existing = render({"blobs": {"claim": {"existing": "shared"}}})
    assert not [m for m in existing if m["kind"] == "PersistentVolumeClaim"]


def test_pool_takes_what_names_a_model_and_the_service_the_rest() -> None:
    manifests = render(
        {"gateway": {"enabled": True, "parents": [{"name": "g"}]},
         "inferencePool": {"enabled": True, "picker": {"name": "p"}}, "service": {"grpc": {"enabled": True}}}
    )  # fmt: skip
    models, rest = one(manifests, "HTTPRoute")["spec"]["rules"]
    assert models["backendRefs"][0]["kind"] == "InferencePool"
    assert {match["path"]["value"] for match in models["matches"]} == {
        "/v1/chat/completions", "/v1/completions", "/v1/responses",
    }  # fmt: skip
    assert rest["backendRefs"] == [{"name": "polyad", "port": 80}]
    pool = one(manifests, "InferencePool")["spec"]
    ports = [port["containerPort"] for port in server(manifests)["containers"][0]["ports"] if port["name"] == "http"]
    assert [port["number"] for port in pool["targetPorts"]] == ports
    assert one(manifests, "GRPCRoute")["spec"]["rules"][0]["backendRefs"] == [{"name": "polyad", "port": 9000}]


def test_metrics_are_read_with_a_key_that_reads_them() -> None:
    manifests = render({"serviceMonitor": {"enabled": True}})
    credentials = one(manifests, "ServiceMonitor")["spec"]["endpoints"][0]["authorization"]["credentials"]
    given = environment(server(manifests)["containers"][0])
    (variable,) = (
        name for name, value in given.items() if value == {"secretKeyRef": {**credentials, "optional": False}}
    )
    setting = variable.removeprefix("POLYAD_").lower()
    access = Access(Settings.load(**{"api_key": "u", "admin_key": "a", setting: "m"}), Snapshot())
    assert access.reader_of_metrics(b"Bearer m") == Caller()
    assert "/metrics" not in OPEN_PATHS
