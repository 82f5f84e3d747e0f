"""Rendering the chart with Helm, and what its manifests must be."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from kubernetes_validate.utils import all_versions, schema_contents
from referencing import Registry, Resource

from tests.helm.tools import helm

CHART = Path(__file__).resolve().parents[2] / "helm"
VERSIONS = ("1.31", "1.34", "1.37")
# What a user has to say; everything else has a default.
NEEDED: dict[str, Any] = {
    "model": {"name": "org/model"},
    "keys": {"existingSecret": "polyad-keys"},
    "redis": {"url": {"name": "polyad-redis"}},
}
_CUSTOM = json.loads((Path(__file__).parent / "custom_resources.json").read_text())
# A new object of each document: PyYAML's safe loader in C.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Manifest = dict[str, Any]


def merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Values, of which later ones win."""
    result: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            old = result.get(key)
            result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return result


def template(values: Mapping[str, Any], *options: str, kubernetes: str = VERSIONS[-1]) -> tuple[int, str]:
    """Helm's exit code, and the manifests or the error."""
    done = helm().run(
        "template", "polyad", CHART, "--namespace", "ns", "--kube-version", kubernetes, "-f", "-", *options,
        stdin=json.dumps(values),
    )  # fmt: skip
    return done.returncode, done.stdout if done.returncode == 0 else done.stderr


def render(*parts: Mapping[str, Any], kubernetes: str = VERSIONS[-1]) -> list[Manifest]:
    """The manifests for what a user has to say and these values; fails with Helm's error."""
    code, text = template(merged(NEEDED, *parts), kubernetes=kubernetes)
    if code:
        raise ValueError(text)
    return list(parsed(text))


def parsed(text: str) -> Iterator[Manifest]:
    yield from (document for document in yaml.load_all(text, _Loader) if document)


def one(manifests: list[Manifest], kind: str, name: str | None = None) -> Manifest:
    """The one manifest of a kind, or of a kind and a name."""
    found = [m for m in manifests if m["kind"] == kind and (name is None or m["metadata"]["name"] == name)]
    if len(found) != 1:
        raise LookupError(f"{len(found)} manifests are {kind} {name or ''}")
    return found[0]


def server(manifests: list[Manifest]) -> Manifest:
    """The pod of the servers."""
    (found,) = (
        m for m in manifests if m["metadata"]["name"] == "polyad" and m["kind"] in ("Deployment", "StatefulSet")
    )
    spec: Manifest = found["spec"]["template"]["spec"]
    return spec


def environment(container: Manifest) -> dict[str, Any]:
    """Its variables: the value, or where the value comes from."""
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def check(manifest: Manifest, kubernetes: str) -> None:
    """Raise jsonschema's error if the manifest is not exactly what this Kubernetes, or the custom resource, knows."""
    kind = f"{manifest['apiVersion']}/{manifest['kind']}"
    _validator(kind, kubernetes).validate(manifest)


@cache
def _validator(kind: str, kubernetes: str) -> Draft202012Validator:
    if kind in _CUSTOM["resources"]:
        return Draft202012Validator({"$defs": _CUSTOM["$defs"], **_CUSTOM["resources"][kind]})
    group, _, rest = kind.rpartition("/")[0].partition("/")
    file = f"{kind.rpartition('/')[2].lower()}-{group.split('.')[0]}{f'-{rest}' if rest else ''}.json"
    folder = f"kubernetes-json-schema/v{_full(kubernetes)}-local-strict"
    registry = Registry().with_resource("_definitions.json", _definitions(folder))
    schema = schema_contents(f"{folder}/{file}", kubernetes)
    return Draft202012Validator(schema, registry=Resource.from_contents(schema) @ registry)


@cache
def _definitions(folder: str) -> Resource[Any]:
    return Resource.from_contents(schema_contents(f"{folder}/_definitions.json", folder))


def _full(kubernetes: str) -> str:
    return next(version for version in all_versions() if version.startswith(f"{kubernetes}."))
