"""Two tenants on one server: nothing that one asks tells it of the other's names."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serve.api.conftest import ADMIN_KEY, Face, refused

ROUTES: list[tuple[str, str, dict[str, Any] | None]] = [
    ("GET", "/v1/adapters/{}", None),
    ("GET", "/v1/adapters/{}/versions", None),
    ("GET", "/v1/adapters/{}/versions/v1", None),
    ("PUT", "/v1/adapters/{}/aliases/canary", {"version": "v1"}),
    ("DELETE", "/v1/adapters/{}/aliases/production", None),
    ("PUT", "/v1/adapters/{}/versions/v1/pin", None),
    ("DELETE", "/v1/adapters/{}/versions/v1/pin", None),
    ("DELETE", "/v1/adapters/{}/versions/v1", None),
    ("DELETE", "/v1/adapters/{}", None),
    ("GET", "/v1/public/adapters/{}", None),
    ("GET", "/v1/compositions/{}", None),
    ("GET", "/v1/public/compositions/{}", None),
    ("PUT", "/v1/compositions/mine", {"expression": "{}*0.5"}),
    ("PUT", "/v1/compositions/mine", {"expression": "public/{}"}),
    ("DELETE", "/v1/compositions/{}", None),
    ("GET", "/v1/adapters/{}/policy", None),
    ("PUT", "/v1/adapters/{}/policy", {"mode": "automatic"}),
    ("POST", "/v1/runs", {"adapter": "{}"}),
    ("GET", "/v1/tenants/{}", None),
    ("GET", "/v1/keys?tenant={}", None),
    ("POST", "/v1/keys", {"tenant": "{}"}),
    ("DELETE", "/v1/keys/{}", None),
]


class Tenants:
    """A server with a client for each role of two tenants."""

    def __init__(self, face: Face) -> None:
        self.face = face
        self._clients: dict[str | None, httpx.Client] = {}
        self.operator = self.client(ADMIN_KEY)
        self.keys: dict[tuple[str, str], dict[str, Any]] = {}
        for tenant in ("acme", "other"):
            for role in ("user", "publisher", "admin"):
                made = self.operator.post("/v1/keys", json={"tenant": tenant, "role": role, "label": "test"})
                assert made.status_code == 201, made.text
                self.keys[tenant, role] = made.json()

    def client(self, key: str | None) -> httpx.Client:
        if key not in self._clients:
            headers = {"authorization": f"Bearer {key}"} if key else {}
            self._clients[key] = httpx.Client(base_url=self.face.client.base_url, timeout=30, headers=headers)
        return self._clients[key]

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def of(self, tenant: str, role: str = "publisher") -> httpx.Client:
        return self.client(self.keys[tenant, role]["secret"])

    def push(self, client: httpx.Client, name: str, prefix: str = "/v1") -> httpx.Response:
        return client.post(f"{prefix}/adapters", data={"name": name}, files=self.face.files())


@pytest.fixture(scope="module")
def tenants(new_face: Callable[..., Face]) -> Iterator[Tenants]:
    with new_face(api_key="the-api-key", admin_key=ADMIN_KEY) as face:
        made = Tenants(face)
        assert made.push(made.of("acme"), "secret").status_code == 201
        saved = made.of("acme").put("/v1/compositions/plans", json={"expression": "secret*0.5"})
        assert saved.status_code == 200, saved.text
        assert made.push(made.operator, "shared", "/v1/public").status_code == 201
        yield made
        made.close()


def asked(client: httpx.Client, method: str, path: str, body: Any, name: str) -> tuple[int, str, dict[str, str]]:
    sent = {key: value.replace("{}", name) for key, value in body.items()} if body else None
    answer = client.request(method, path.replace("{}", name), json=sent)
    headers = {key: value for key, value in answer.headers.items() if key not in ("date", "content-length")}
    return answer.status_code, answer.text.replace(name, "NAME"), headers


@pytest.mark.parametrize("role", ["user", "publisher", "admin"])
@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_names_of_another_tenant_are_as_if_they_were_none(
    tenants: Tenants, method: str, path: str, body: Any, role: str
) -> None:
    client = tenants.of("other", role)
    unknown = asked(client, method, path, body, "nobody")
    key = tenants.keys["acme", "user"]["key"]
    for name in ("secret", "plans", "acme", key):
        assert asked(client, method, path, body, name) == unknown, name
    assert unknown[0] in (403, 404), unknown


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
@pytest.mark.parametrize("key", [None, "polyad_000000000000_wrong", "wrong"])
def test_without_a_valid_key_nothing_is_told(
    tenants: Tenants, method: str, path: str, body: Any, key: str | None
) -> None:
    answers = {asked(tenants.client(key), method, path, body, name)[:2] for name in ("secret", "nobody")}
    assert [status for status, _ in answers] == [401]


def test_lists_hold_ones_own(tenants: Tenants) -> None:
    for path, own in (("adapters", "secret"), ("compositions", "plans")):
        assert [entry["name"] for entry in tenants.of("acme").get(f"/v1/{path}").json()["data"]] == [own]
        assert tenants.of("other").get(f"/v1/{path}").json()["data"] == []
    assert [entry["name"] for entry in tenants.of("other").get("/v1/public/adapters").json()["data"]] == ["shared"]
    for tenant in ("acme", "other"):
        listed = tenants.of(tenant, "admin").get("/v1/keys").json()["data"]
        assert {entry["tenant"] for entry in listed} == {tenant} and len(listed) == 3


def test_one_name_may_be_of_each(tenants: Tenants) -> None:
    for client, prefix in ((tenants.of("acme"), "/v1"), (tenants.of("other"), "/v1"), (tenants.operator, "/v1/public")):
        assert tenants.push(client, "robot", prefix).status_code == 201
    digests = {
        client.get("/v1/adapters/robot/versions/v1").json()["digest"] for client in map(tenants.of, ("acme", "other"))
    }
    digests.add(tenants.of("acme").get("/v1/public/adapters/robot/versions/v1").json()["digest"])
    assert len(digests) == 3
    assert tenants.of("other").delete("/v1/adapters/robot").status_code == 200
    assert tenants.of("acme").get("/v1/adapters/robot").status_code == 200


def test_what_is_public_is_written_by_those_who_run_the_server(tenants: Tenants) -> None:
    for client in (tenants.of("acme", "admin"), tenants.client("the-api-key")):
        refused(tenants.push(client, "shared", "/v1/public"), 403, "Forbidden", None)
        refused(client.delete("/v1/public/adapters/shared"), 403, "Forbidden", None)
    publisher = tenants.operator.post("/v1/keys", json={"role": "publisher"}).json()
    refused(tenants.push(tenants.client(publisher["secret"]), "shared"), 403, "Forbidden", None)


def test_public_names_are_in_compositions_of_every_tenant(tenants: Tenants) -> None:
    for expression in ("public/shared*0.5", "shared*0.5 + public/shared*0.25"):
        saved = tenants.of("other").put("/v1/compositions/of-public", json={"expression": expression})
        assert saved.status_code == 200, saved.text
    missing = tenants.of("other").put("/v1/compositions/of-public", json={"expression": "acme/secret*0.5"})
    refused(missing, 400, "InvalidName", "expression")


def test_runs_are_of_the_tenant_whose_adapter_learns(tenants: Tenants) -> None:
    admin, others = tenants.of("acme", "admin"), tenants.of("other", "admin")
    assert admin.put("/v1/adapters/secret/policy", json={"mode": "automatic"}).status_code == 200
    begun = admin.post("/v1/runs", json={"adapter": "secret"})
    assert begun.status_code == 201, begun.text
    run = begun.json()["id"]
    assert [entry["id"] for entry in admin.get("/v1/runs").json()["data"]] == [run]
    assert others.get("/v1/runs").json()["data"] == []
    for method, path in (("GET", ""), ("GET", "/decisions"), ("POST", "/cancel"), ("POST", "/approve")):
        unknown = asked(others, method, f"/v1/runs/{{}}{path}", None, "run-0000000000000000")
        assert asked(others, method, f"/v1/runs/{{}}{path}", None, run) == unknown
        assert unknown[0] == 404
    assert admin.post(f"/v1/runs/{run}/cancel").status_code == 202


def test_a_revoked_key_is_none_at_once(tenants: Tenants) -> None:
    admin = tenants.of("acme", "admin")
    made = admin.post("/v1/keys", json={"role": "publisher", "label": "for a day"}).json()
    client = tenants.client(made["secret"])
    assert client.get("/v1/adapters").status_code == 200
    assert admin.delete(f"/v1/keys/{made['key']}").status_code == 200
    refused(client.get("/v1/adapters"), 401, "Unauthenticated", None)
    refused(admin.delete(f"/v1/keys/{made['key']}"), 404, "UnknownKey", "key")


def test_a_key_is_shown_once_and_kept_as_a_digest(tenants: Tenants) -> None:
    made = tenants.keys["acme", "user"]
    assert made["secret"].startswith(f"polyad_{made['key']}_") and len(made["secret"]) > 50
    assert made["secret"] not in tenants.of("acme", "admin").get("/v1/keys").text
    files: list[Path] = [path for path in (tenants.face.settings.state_dir / "redis").rglob("*") if path.is_file()]
    secret = made["secret"].rpartition("_")[2].encode()
    assert files and not any(secret in path.read_bytes() for path in files)


def test_limits_are_set_by_those_who_run_the_server(tenants: Tenants) -> None:
    body = {"weight": 2.5, "max_adapters": 100}
    refused(tenants.of("acme", "admin").put("/v1/tenants/acme", json=body), 403, "Forbidden", None)
    refused(tenants.operator.put("/v1/tenants/acme", json={"weight": 0}), 400, "InvalidInput", "weight")
    assert tenants.operator.put("/v1/tenants/acme", json=body).json()["weight"] == 2.5
    shown = tenants.of("acme", "admin").get("/v1/tenants/acme").json()
    assert (shown["weight"], shown["max_adapters"], shown["max_bytes"]) == (2.5, 100, None)
    assert shown["adapters"] >= 1 and shown["bytes"] > 0


def test_the_first_key_is_an_admins_and_the_last_admin_stays(new_face: Callable[..., Face]) -> None:
    with new_face() as face:
        refused(face.client.post("/v1/keys", json={"tenant": "acme"}), 409, "Conflict", "role")
        made = face.client.post("/v1/keys", json={"role": "admin"}).json()
        refused(face.client.get("/v1/adapters"), 401, "Unauthenticated", None)
        headers = {"authorization": f"Bearer {made['secret']}"}
        assert face.client.post("/v1/keys", json={"tenant": "acme"}, headers=headers).status_code == 201
        refused(face.client.delete(f"/v1/keys/{made['key']}", headers=headers), 409, "Conflict", "key")


def test_metrics_are_for_those_who_run_the_server(tenants: Tenants) -> None:
    for client in (tenants.of("acme", "admin"), tenants.client("the-api-key")):
        refused(client.get("/metrics"), 403, "Forbidden", None)
    # Nothing here has metrics; in the server vLLM's application does.
    assert tenants.operator.get("/metrics").status_code == 404


def test_limits_of_a_tenant_are_answered_with_429(tenants: Tenants) -> None:
    user = tenants.of("other", "user")
    tenants.operator.put("/v1/tenants/other", json={"max_running": 0, "max_adapters": 0, "max_bytes": 0})
    for answer, field in (
        (user.post("/v1/completions", json={"model": "tiny"}), "max_running"),
        (tenants.push(tenants.of("other"), "one-more"), "max_adapters"),
    ):
        refused(answer, 429, "LimitReached", field)
        assert int(answer.headers["retry-after"]) >= 1
    assert tenants.of("acme", "user").post("/v1/completions", json={"model": "tiny"}).status_code == 200
    tenants.operator.put("/v1/tenants/other", json={"max_bytes": 100})
    refused(tenants.push(tenants.of("other"), "one-more"), 429, "LimitReached", "max_bytes")
    tenants.operator.put("/v1/tenants/other", json={})
    assert tenants.push(tenants.of("other"), "one-more").status_code == 201


def test_bytes_are_collected_by_operators_alone(tenants: Tenants) -> None:
    acme = tenants.of("acme", "admin")
    assert tenants.push(acme, "fleeting").status_code == 201
    digest = acme.get("/v1/adapters/fleeting/versions/v1").json()["digest"]
    assert acme.delete("/v1/adapters/fleeting").status_code == 200
    for client in (acme, tenants.of("other", "admin")):
        for dry_run in (True, False):
            collected = client.post("/v1/collections", json={"dry_run": dry_run})
            assert (collected.status_code, collected.json()["blobs"]) == (200, [])
    assert digest in tenants.operator.post("/v1/collections", json={"dry_run": False}).json()["blobs"]
