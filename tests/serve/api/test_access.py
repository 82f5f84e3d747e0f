"""Who may do what, on every route of ours; and that keys are compared whole."""

from collections.abc import Callable

import pytest

from polyad.adapters_store.errors import Unauthenticated
from polyad.serve.config import Settings
from tests.serve.api.conftest import ADMIN_KEY, API_KEY, Face, refused

NOBODY, USER, ADMIN = None, API_KEY, ADMIN_KEY

READING = [
    ("GET", "/v1/adapters"),
    ("GET", "/v1/adapters/none"),
    ("GET", "/v1/adapters/none/versions"),
    ("GET", "/v1/adapters/none/versions/v1"),
    ("GET", "/v1/compositions"),
    ("GET", "/v1/compositions/none"),
    ("GET", "/v1/public/adapters"),
    ("GET", "/v1/public/adapters/none"),
    ("GET", "/v1/public/adapters/none/versions"),
    ("GET", "/v1/public/adapters/none/versions/v1"),
    ("GET", "/v1/public/compositions"),
    ("GET", "/v1/public/compositions/none"),
    ("GET", "/v1/merges"),
    ("GET", "/v1/merges/none"),
    ("POST", "/v1/feedback"),
    ("GET", "/v1/adapters/none/policy"),
    ("GET", "/v1/runs"),
    ("GET", "/v1/runs/none"),
    ("POST", "/v1/completions"),
    ("POST", "/tokenize"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
]
CHANGING = [
    ("POST", "/v1/adapters"),
    ("PUT", "/v1/adapters/none/aliases/production"),
    ("DELETE", "/v1/adapters/none/aliases/production"),
    ("DELETE", "/v1/adapters/none"),
    ("DELETE", "/v1/adapters/none/versions/v1"),
    ("PUT", "/v1/adapters/none/versions/v1/pin"),
    ("DELETE", "/v1/adapters/none/versions/v1/pin"),
    ("PUT", "/v1/compositions/none"),
    ("DELETE", "/v1/compositions/none"),
    ("POST", "/v1/public/adapters"),
    ("PUT", "/v1/public/adapters/none/aliases/production"),
    ("DELETE", "/v1/public/adapters/none/aliases/production"),
    ("DELETE", "/v1/public/adapters/none"),
    ("DELETE", "/v1/public/adapters/none/versions/v1"),
    ("PUT", "/v1/public/adapters/none/versions/v1/pin"),
    ("DELETE", "/v1/public/adapters/none/versions/v1/pin"),
    ("PUT", "/v1/public/compositions/none"),
    ("DELETE", "/v1/public/compositions/none"),
    ("POST", "/v1/merges"),
    ("DELETE", "/v1/merges/none"),
    ("DELETE", "/v1/feedback/users/none"),
    ("PUT", "/v1/adapters/none/policy"),
    ("POST", "/v1/runs"),
    ("POST", "/v1/runs/none/cancel"),
    ("POST", "/v1/runs/none/approve"),
    ("POST", "/v1/runs/none/reject"),
    ("GET", "/v1/runs/none/decisions"),
    ("GET", "/v1/keys"),
    ("POST", "/v1/keys"),
    ("DELETE", "/v1/keys/none"),
    ("GET", "/v1/tenants/none"),
    ("PUT", "/v1/tenants/none"),
    ("POST", "/v1/collections"),
    ("GET", "/v1/replicas"),  # changes nothing, but is for those who run the servers
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/v1/unload_lora_adapter"),
]
OPEN = [("GET", "/health"), ("GET", "/ready"), ("GET", "/version")]


def ask(face: Face, method: str, path: str, key: str | None) -> int:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    body = {"version": "v1", "name": "none", "source": "x", "lora_name": "none", "lora_path": "x", "dry_run": True}
    body |= {"expression": "none", "weight": 1, "role": "wrong", "response": "none", "thumb": "up", "adapter": "none"}
    body |= {"mode": "off"}
    fields = {"POST /v1/adapters": ("name", "source"), "POST /v1/collections": ("dry_run",)}
    fields |= {"PUT /v1/adapters/none/aliases/production": ("version",), "PUT /v1/compositions/none": ("expression",)}
    fields |= {"POST /v1/load_lora_adapter": ("lora_name", "lora_path"), "POST /v1/unload_lora_adapter": ("lora_name",)}
    fields |= {"POST /v1/merges": ("expression",), "PUT /v1/tenants/none": ("weight",), "POST /v1/keys": ("role",)}
    fields |= {"POST /v1/feedback": ("response", "thumb"), "POST /v1/runs": ("adapter",)}
    fields |= {"PUT /v1/adapters/none/policy": ("mode",)}
    wanted = fields.get(f"{method} {path.replace('/public', '')}", ("name",))
    sent = {field: body[field] for field in wanted} if method in ("POST", "PUT") else None
    return face.client.request(method, path, headers=headers, json=sent).status_code


def test_every_route_of_ours_is_in_a_table(guarded: Face) -> None:
    document = guarded.client.get("/openapi.json", headers={"authorization": f"Bearer {API_KEY}"}).json()
    ours = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    named = {
        "{name}": "none",
        "{version}": "v1",
        "{alias}": "production",
        "{key}": "none",
        "{tenant}": "none",
        "{id}": "none",
        "{user}": "none",
    }
    for placeholder, value in named.items():
        ours = {(method, path.replace(placeholder, value)) for method, path in ours}
    assert ours == set(READING[:20] + CHANGING + OPEN)


@pytest.mark.parametrize(("method", "path"), READING)
def test_reading_needs_a_key(guarded: Face, method: str, path: str) -> None:
    assert ask(guarded, method, path, NOBODY) == 401
    assert ask(guarded, method, path, USER) in (200, 404)
    assert ask(guarded, method, path, ADMIN) in (200, 404)


@pytest.mark.parametrize(("method", "path"), CHANGING)
def test_changing_needs_the_admin_key(guarded: Face, method: str, path: str) -> None:
    assert ask(guarded, method, path, NOBODY) == 401
    assert ask(guarded, method, path, USER) == 403
    # It gets as far as looking for what the request names.
    assert ask(guarded, method, path, ADMIN) in (200, 400, 404)


@pytest.mark.parametrize(("method", "path"), OPEN)
def test_probes_need_no_key(guarded: Face, method: str, path: str) -> None:
    assert {ask(guarded, method, path, key) for key in (NOBODY, USER, ADMIN, "wrong")} == {200}


@pytest.mark.parametrize(("method", "path"), READING + CHANGING + OPEN)
def test_without_keys_everybody_is_admin(face: Face, method: str, path: str) -> None:
    assert ask(face, method, path, NOBODY) in (200, 400, 404)


def test_refusals_say_what_is_needed(guarded: Face) -> None:
    nobody = guarded.client.get("/v1/adapters")
    refused(nobody, 401, "Unauthenticated", None)
    assert nobody.headers["www-authenticate"] == "Bearer"
    user = guarded.client.delete("/v1/adapters/none", headers={"authorization": f"Bearer {API_KEY}"})
    refused(user, 403, "Forbidden", None)
    assert ADMIN_KEY not in user.text + nobody.text


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        API_KEY,
        f"Basic {API_KEY}",
        f"Bearer  {API_KEY}",
        f"Bearer {API_KEY[:-1]}",
        f"Bearer {API_KEY}x",
        f"Bearer {API_KEY.upper()}",
        "Bearer \xff\xfe",
        "Bearer " + "x" * 10_000,
    ],
)
def test_only_the_whole_key_is_a_key(guarded: Face, authorization: str) -> None:
    answer = guarded.client.get("/v1/adapters", headers={"authorization": authorization.encode("latin-1")})
    refused(answer, 401, "Unauthenticated", None)


def test_unknown_paths_are_not_told_from_known_ones_without_a_key(guarded: Face) -> None:
    refused(guarded.client.get("/no/such/path"), 401, "Unauthenticated", None)


def test_browsers_may_ask_whether_they_may_send_a_key(guarded: Face) -> None:
    # Nothing here answers OPTIONS; in the server vLLM's CORS middleware does.
    assert guarded.client.options("/v1/adapters").status_code == 405


def test_websockets_need_a_key_too(guarded: Face) -> None:
    upgrade = (
        b"GET /v1/realtime HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    status, _, _ = guarded.raw(upgrade, more=True)
    assert status in (401, 403)


@pytest.fixture
def role_of() -> Callable[..., object]:
    from polyad.adapters_store.registry import Snapshot
    from polyad.serve.service import Access

    def role(authorization: bytes, api_key: str | None, admin_key: str | None) -> object:
        settings = Settings.load(api_key=api_key, admin_key=admin_key)
        try:
            caller = Access(settings, Snapshot()).caller(authorization)
        except Unauthenticated:
            return None
        assert caller.tenant == "public"
        return caller.role.name

    return role


@pytest.mark.parametrize(
    ("api_key", "admin_key", "sent", "role"),
    [
        (None, None, b"", "ADMIN"),
        (None, "a", b"", "USER"),
        (None, "a", b"Bearer wrong", "USER"),
        (None, "a", b"Bearer a", "ADMIN"),
        ("u", None, b"", None),
        ("u", None, b"bearer u", "USER"),
        ("u", "a", b"Bearer a", "ADMIN"),
        ("same", "same", b"Bearer same", "ADMIN"),
        ("schl\u00fcssel", None, "Bearer schl\u00fcssel".encode(), "USER"),
        ("schl\u00fcssel", None, "Bearer schl\u00fcssel".encode("latin-1"), None),
    ],
)
def test_roles(
    role_of: Callable[..., object], api_key: str | None, admin_key: str | None, sent: bytes, role: str | None
) -> None:
    assert role_of(sent, api_key, admin_key) == role
