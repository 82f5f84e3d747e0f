"""/v1/replicas: the server lists itself; only an admin may ask; Redis away is a 503."""

import time
from typing import Any

from tests.serve.api.conftest import ADMIN_KEY, API_KEY, Face, refused
from tests.serve.api.test_operations import pause


def test_a_server_lists_itself(face: Face) -> None:
    deadline = time.monotonic() + 60
    while not (listed := face.client.get("/v1/replicas").json())["data"]:
        assert time.monotonic() < deadline
    (replica,) = listed["data"]
    assert listed["object"] == "list"
    assert (replica["status"], replica["base_fingerprint"], replica["held"]) == ("ready", face.base.fingerprint, [])
    assert replica["revision"] <= listed["revision"]


def test_only_an_admin_may_ask(guarded: Face) -> None:
    def ask(key: str) -> Any:
        return guarded.client.get("/v1/replicas", headers={"Authorization": f"Bearer {key}"})

    assert ask(ADMIN_KEY).status_code == 200
    refused(ask(API_KEY), 403, "Forbidden", None)
    refused(ask("nobody's"), 401, "Unauthenticated", None)


def test_redis_away_is_a_503(new_face: Any) -> None:
    with new_face() as face:
        pid = face.redis.pid
        pause(pid, True)
        try:
            refused(face.client.get("/v1/replicas"), 503, "RegistryUnavailable", None)
        finally:
            pause(pid, False)
