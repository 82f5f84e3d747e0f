"""Every combination of the main switches, for three Kubernetes versions, against the schemas of each."""

import itertools
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest

from tests.helm.chart import CHART, NEEDED, VERSIONS, check, merged, one, parsed, render, template
from tests.helm.tools import helm

_GATEWAY = {
    "gateway": {
        "enabled": True,
        "parents": [{"name": "public", "namespace": "gateways", "sectionName": "https"}],
        "hostnames": ["ai.example.org"],
    }
}
_POOL = {
    "inferencePool": {"enabled": True, "picker": {"name": "picker"}, "objectives": [{"name": "batch", "priority": -1}]}
}
SWITCHES: dict[str, dict[str, dict[str, Any]]] = {
    "profile": {"gpu": {"gpu": {"kind": "h100", "count": 2, "runtimeClass": "nvidia"}}, "cpu": {"profile": "cpu"}},
    "kind": {kind: {"server": {"kind": kind}} for kind in ("Deployment", "StatefulSet")},
    "scaling": {
        "none": {},
        "hpa": {"autoscaling": {"kind": "hpa"}},
        "keda": {"autoscaling": {"kind": "keda", "keda": {"prometheus": "http://p:9090", "authentication": "p"}}},
    },
    "blobs": {
        "claim": {},
        "store": {"blobs": {"kind": "objectStore", "objectStore": {"url": "s3://bucket/x", "secret": "s3"}}},
    },
    "redis": {"outside": {}, "trial": {"redis": {"trial": {"enabled": True}}, "keys": {"create": True}}},
    "grpc": {"off": {}, "on": {"service": {"grpc": {"enabled": True}}}},
    "routing": {"service": {}, "gateway": _GATEWAY, "pool": {**_GATEWAY, **_POOL}},
    "rest": {
        "off": {
            "networkPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False},
            "migration": {"enabled": False}, "serviceAccount": {"create": False},
        },
        "on": {
            "learn": {"enabled": True},
            "ingress": {"enabled": True, "hosts": ["a.example.org"], "className": "nginx",
                        "tls": [{"secretName": "tls", "hosts": ["a.example.org"]}]},
            "serviceMonitor": {"enabled": True, "labels": {"a": "b"}},
            "prometheusRule": {"enabled": True}, "dashboard": {"enabled": True},
            "model": {"claim": "models", "hubToken": {"name": "hub"}, "options": ["--max-model-len=8192"]},
            "server": {"environment": {"A": "1"}, "labels": {"c": "d"}, "annotations": {"e": "f"},
                       "resources": {"requests": {"cpu": 2}, "limits": {"memory": "8Gi"}}, "priorityClass": "high"},
            "image": {"pullSecrets": ["registry"]},
        },
    },
}  # fmt: skip


def combinations() -> Iterator[dict[str, Any]]:
    for chosen in itertools.product(*SWITCHES.values()):
        yield merged(NEEDED, *(choices[name] for choices, name in zip(SWITCHES.values(), chosen, strict=True)))


def test_lint_finds_nothing() -> None:
    for values in (NEEDED, list(combinations())[-1]):
        done = helm().run("lint", "--strict", CHART, "-f", "-", stdin=json.dumps(values))
        assert done.returncode == 0, done.stdout + done.stderr


def test_manifests_do_not_depend_on_the_version() -> None:
    """So each combination has to be rendered once only, by one of the versions in turn."""
    assert not [file.name for file in (CHART / "templates").iterdir() if ".Capabilities" in file.read_text()]
    values = merged(NEEDED, *(list(choices.values())[-1] for choices in SWITCHES.values()), {"keys": {"create": False}})
    assert len({template(values, kubernetes=kubernetes) for kubernetes in VERSIONS}) == 1
    code, text = template(values, kubernetes="1.29")
    assert code != 0
    assert "kubeVersion" in text


def test_every_combination_is_what_each_kubernetes_knows() -> None:
    everything = list(combinations())
    assert len(everything) == 2 * 2 * 3 * 2 * 2 * 2 * 3 * 2
    seen: set[str] = set()
    with ThreadPoolExecutor(2) as threads:
        versions = itertools.cycle(VERSIONS)
        rendered = threads.map(lambda given: template(given, kubernetes=next(versions)), everything)
        for values, (code, text) in zip(everything, rendered, strict=True):
            assert code == 0, (values, text)
            _check_new(text, seen)
    assert len(seen) > 100


def _check_new(text: str, seen: set[str]) -> None:
    """Most combinations share most of their manifests; each different one is checked once, for all versions."""
    for document in text.split("\n---\n"):
        known = re.sub(r"(api|admin)-key: \S{64}", "", document)
        if known in seen:
            continue
        seen.add(known)
        for manifest in parsed(document):
            for kubernetes in VERSIONS:
                check(manifest, kubernetes)


def test_names_are_used_once() -> None:
    manifests = render(*(list(choices.values())[-1] for choices in SWITCHES.values()))
    names = [(manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests]
    assert len(names) == len(set(names))


BROKEN = [
    ("Deployment", ("spec", "replica"), 1),
    ("Deployment", ("spec", "template", "spec", "containers", 0, "livenessProbe", "httpGet", "prot"), 1),
    ("Service", ("spec", "ports", 0, "targetport"), "http"),
    ("HTTPRoute", ("spec", "rules", 0, "backendRef"), []),
    ("ScaledObject", ("spec", "triggers", 0, "metadata", "threshold"), 4),
    ("ServiceMonitor", ("spec", "endpoints", 0, "bearerTokenFile"), "/x"),
    ("InferencePool", ("spec", "endpointPickerRef", "port"), 9002),
]


@pytest.mark.parametrize(("kind", "place", "value"), BROKEN, ids=[kind + str(place[-1]) for kind, place, _ in BROKEN])
def test_the_schemas_catch_what_is_wrong(kind: str, place: tuple[Any, ...], value: object) -> None:
    chosen = {"kind": "Deployment", "scaling": "keda"}
    values = (choices[chosen.get(switch, list(choices)[-1])] for switch, choices in SWITCHES.items())
    manifest = one(render(*values), kind, "polyad")
    check(manifest, VERSIONS[-1])
    part: Any = manifest
    for step in place[:-1]:
        part = part[step]
    part[place[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        check(manifest, VERSIONS[-1])
