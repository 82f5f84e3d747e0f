"""As much of a Kubernetes API server as Helm needs: discovery, CRUD, server-side apply, merge patches, lists, watches.

It keeps objects, checks their fields when it is asked to, and runs nothing: a Job is complete, or failed, as soon as it
is there.
"""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from jsonschema import ValidationError

from tests.helm.chart import VERSIONS, check
from tests.helm.secret_protobuf import MAGIC, secret

# kind: (group/version, plural)
KINDS = {
    "Namespace": ("v1", "namespaces"),
    "Secret": ("v1", "secrets"),
    "Service": ("v1", "services"),
    "ServiceAccount": ("v1", "serviceaccounts"),
    "ConfigMap": ("v1", "configmaps"),
    "PersistentVolumeClaim": ("v1", "persistentvolumeclaims"),
    "Deployment": ("apps/v1", "deployments"),
    "StatefulSet": ("apps/v1", "statefulsets"),
    "Job": ("batch/v1", "jobs"),
    "PodDisruptionBudget": ("policy/v1", "poddisruptionbudgets"),
    "NetworkPolicy": ("networking.k8s.io/v1", "networkpolicies"),
    "Ingress": ("networking.k8s.io/v1", "ingresses"),
    "HorizontalPodAutoscaler": ("autoscaling/v2", "horizontalpodautoscalers"),
}
_VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]
_OBJECT = re.compile(r"^/(?:api/(v1)|apis/([^/]+/[^/]+))/(?:namespaces/([^/]+)/)?([a-z]+)(?:/([^/]+))?$")
_PLURALS = {plural: kind for kind, (_, plural) in KINDS.items()}

Object = dict[str, Any]


class Cluster:
    """The objects, by kind and name, and what was asked."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Object] = {}
        self.log: list[tuple[str, str, str]] = []
        self.events: list[tuple[str, Object]] = []
        self.closing = threading.Event()
        self.jobs_fail = False
        self._lock = threading.RLock()
        self._revision = 0

    def names(self, kind: str) -> list[str]:
        return sorted(name for found, name in self.objects if found == kind)

    def put(self, kind: str, name: str, given: Object) -> Object:
        with self._lock:
            self._revision += 1
            meta = {"namespace": "ns", "uid": f"uid-{self._revision}", "creationTimestamp": "2026-01-01T00:00:00Z"}
            old = self.objects.get((kind, name), {}).get("metadata", {})
            kept = {key: old[key] for key in ("uid", "creationTimestamp") if key in old}
            made = {**given, "apiVersion": KINDS[kind][0], "kind": kind}
            made["metadata"] = {**meta, **given["metadata"], **kept, "resourceVersion": str(self._revision)}
            if kind == "Job":
                outcome = "Failed" if self.jobs_fail else "Complete"
                made["status"] = {"conditions": [{"type": outcome, "status": "True"}], "succeeded": 1}
            self.events.append(("MODIFIED" if old else "ADDED", made))
            self.objects[kind, name] = made
            return made

    def drop(self, kind: str, name: str) -> bool:
        with self._lock:
            found = self.objects.pop((kind, name), None)
            if found is not None:
                self.events.append(("DELETED", found))
            return found is not None


def _merge(old: Object, patch: Object) -> Object:
    result = dict(old)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            known = result.get(key)
            result[key] = _merge(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return result


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cluster: Cluster

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if (found := _discovery(url.path)) is not None:
            self._answer(200, found)
        elif match := _OBJECT.match(url.path):
            kind, name = _PLURALS.get(match[4], ""), match[5]
            if name is not None:
                self._one(kind, name)
            elif query.get("watch"):
                self._watch(kind)
            else:
                self._list(kind, query)
        else:
            self._missing(url.path)

    def do_POST(self) -> None:
        match, body = _OBJECT.match(urlsplit(self.path).path), self._body()
        if match is None:
            self._missing(self.path)
            return
        kind, name = _PLURALS[match[4]], body["metadata"]["name"]
        if (kind, name) in self.cluster.objects:
            self._answer(409, _status(409, "AlreadyExists", f"{kind} {name} already exists"))
            return
        self._store("create", kind, name, body)

    def do_PUT(self) -> None:
        kind, name = self._named()
        self._store("update", kind, name, self._body())

    def do_PATCH(self) -> None:
        kind, name = self._named()
        applied = "apply-patch" in self.headers.get("Content-Type", "")
        body = self._body()
        old = self.cluster.objects.get((kind, name))
        if old is None and not applied:
            self._missing(self.path)
            return
        # An applied object is all that its one manager ever said of it.
        self._store("apply" if applied else "patch", kind, name, body if applied or old is None else _merge(old, body))

    def do_DELETE(self) -> None:
        kind, name = self._named()
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.cluster.log.append(("delete", kind, name))
        if self.cluster.drop(kind, name):
            self._answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})
        else:
            self._missing(self.path)

    def _named(self) -> tuple[str, str]:
        match = _OBJECT.match(urlsplit(self.path).path)
        if match is None or match[5] is None:
            raise ValueError(f"no object: {self.path}")
        return _PLURALS[match[4]], match[5]

    def _store(self, verb: str, kind: str, name: str, body: Object) -> None:
        if "fieldValidation=Strict" in self.path and verb in ("create", "apply"):
            try:
                check(body, VERSIONS[-1])
            except ValidationError as error:
                self._answer(400, _status(400, "BadRequest", error.message))
                return
        self.cluster.log.append((verb, kind, name))
        self._answer(201 if verb == "create" else 200, self.cluster.put(kind, name, body))

    def _one(self, kind: str, name: str) -> None:
        found = self.cluster.objects.get((kind, name))
        if found is None:
            self._missing(f"{kind} {name}")
        else:
            self._answer(200, found)

    def _list(self, kind: str, query: dict[str, str]) -> None:
        wanted = dict(part.split("=", 1) for part in query.get("labelSelector", "").split(",") if "=" in part)
        items = [
            item
            for (found, _), item in list(self.cluster.objects.items())
            if found == kind and wanted.items() <= item["metadata"].get("labels", {}).items()
        ]
        version = KINDS[kind][0] if kind else "v1"
        self._answer(
            200, {"kind": f"{kind}List", "apiVersion": version, "metadata": {"resourceVersion": "1"}, "items": items}
        )

    def _watch(self, kind: str) -> None:
        """What is there now, the mark that ends it, and then what changes, until the client has heard enough."""
        begun = len(self.cluster.events)
        items = [item for (found, _), item in list(self.cluster.objects.items()) if found == kind]
        mark = {"resourceVersion": "1", "annotations": {"k8s.io/initial-events-end": "true"}}
        end = {"apiVersion": KINDS[kind][0], "kind": kind, "metadata": mark}
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        with suppress(OSError):
            self._event(*(("ADDED", item) for item in items), ("BOOKMARK", end))
            while not self.cluster.closing.wait(0.02):
                news = self.cluster.events[begun:]
                begun += len(news)
                self._event(*((change, item) for change, item in news if item["kind"] == kind))

    def _event(self, *events: tuple[str, Object]) -> None:
        for change, item in events:
            self.wfile.write(json.dumps({"type": change, "object": item}).encode() + b"\n")
        self.wfile.flush()

    def _body(self) -> Object:
        content = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if content.startswith(MAGIC):
            return secret(content)
        loaded: Object = yaml.safe_load(content) if content else {}
        return loaded

    def _missing(self, what: str) -> None:
        self._answer(404, _status(404, "NotFound", f"{what} not found"))

    def _answer(self, code: int, content: Object) -> None:
        self._send(code, json.dumps(content).encode())

    def _send(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _status(code: int, reason: str, message: str) -> Object:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }


def _discovery(path: str) -> Object | None:
    groups = sorted({version for version, _ in KINDS.values() if "/" in version})
    if path == "/version":
        return {"major": "1", "minor": "37", "gitVersion": "v1.37.0"}
    if path.startswith("/openapi/v3"):
        return _openapi(path)
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        listed = [
            {"name": group.split("/")[0], "versions": [_version(group)], "preferredVersion": _version(group)}
            for group in groups
        ]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}
    wanted = path.removeprefix("/apis/").removeprefix("/api/")
    resources = [
        {"name": plural, "singularName": kind.lower(), "namespaced": kind != "Namespace", "kind": kind, "verbs": _VERBS}
        for kind, (version, plural) in KINDS.items()
        if version == wanted
    ]
    if path.startswith("/api") and resources:
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": wanted, "resources": resources}
    return None


def _openapi(path: str) -> Object:
    """No schemas, but that this server checks fields itself: then Helm leaves that to it."""
    folders = {f"{'apis' if '/' in version else 'api'}/{version}": version for version, _ in KINDS.values()}
    if path == "/openapi/v3":
        return {"paths": {folder: {"serverRelativeURL": f"/openapi/v3/{folder}"} for folder in folders}}
    wanted = folders[path.removeprefix("/openapi/v3/")]
    asked = [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}]
    group, _, version = wanted.rpartition("/")
    paths = {
        f"/{plural}/{{name}}": {
            "patch": {
                "parameters": asked,
                "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
                "responses": {},
            }
        }
        for kind, (found, plural) in KINDS.items()
        if found == wanted
    }
    return {"openapi": "3.0.0", "info": {"title": "double", "version": "1"}, "paths": paths}


def _version(group: str) -> Object:
    return {"groupVersion": group, "version": group.split("/")[1]}


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[Cluster, Path]]:
    """A running double, and a kubeconfig that leads to it."""
    state = Cluster()
    handler = type("Handler", (_Handler,), {"cluster": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = folder / "kubeconfig"
    context = {"name": "double", "context": {"cluster": "double", "user": "nobody", "namespace": "ns"}}
    address = f"http://127.0.0.1:{server.server_address[1]}"
    users = [{"name": "nobody", "user": {}}]
    clusters = [{"name": "double", "cluster": {"server": address}}]
    text = {"apiVersion": "v1", "kind": "Config", "current-context": "double"}
    config.write_text(yaml.safe_dump({**text, "clusters": clusters, "users": users, "contexts": [context]}))
    try:
        yield state, config
    finally:
        state.closing.set()
        server.shutdown()
        server.server_close()
