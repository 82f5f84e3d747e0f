"""/health, /ready, /version, and collection: a dry run tells, a real one removes."""

import time
from typing import Any

import pytest

from tests.serve.api.conftest import Face, refused


def test_health_and_version(face: Face) -> None:
    assert face.client.get("/health").json() == {"status": "alive"}
    version = face.client.get("/version").json()
    assert version["base_model"] == face.base.name
    assert version["base_fingerprint"] == face.base.fingerprint
    assert version["engine"].startswith("vllm")


def test_ready_says_which_part_is_away(new_face: Any) -> None:
    with new_face() as face:
        up = face.client.get("/ready")
        assert (up.status_code, up.json()) == (200, {"status": "ready", "engine": "ready", "registry": "live"})
        face.engine.ready, face.engine.state = False, "restarting"
        down = face.client.get("/ready")
        assert down.headers["retry-after"] == "5"
        assert (down.status_code, down.json()["status"], down.json()["engine"]) == (503, "unavailable", "restarting")
        face.engine.ready, face.engine.state = True, "ready"


def test_redis_away_is_degraded_and_writes_are_refused_at_once(new_face: Any) -> None:
    with new_face() as face:
        face.push("kept")
        pid = face.redis.pid
        pause(pid, True)
        try:
            wait_for(lambda: face.client.get("/ready").json()["status"] == "degraded")
            assert face.client.get("/ready").status_code == 200
            alias = face.client.put("/v1/adapters/kept/aliases/new", json={"version": "v1"})
            refused(alias, 503, "RegistryUnavailable", None)
            assert int(alias.headers["retry-after"]) > 0
            refused(face.push("new"), 503, "RegistryUnavailable", None)
            refused(face.client.delete("/v1/adapters/kept"), 503, "RegistryUnavailable", None)
            refused(face.client.post("/v1/collections", json={"dry_run": False}), 503, "RegistryUnavailable", None)
            assert face.client.get("/v1/adapters/kept").json()["aliases"] == {"production": "v1"}
        finally:
            pause(pid, False)
        wait_for(lambda: face.client.get("/ready").json()["status"] == "ready")
        assert face.client.put("/v1/adapters/kept/aliases/new", json={"version": "v1"}).status_code == 200


def pause(pid: int, stop: bool) -> None:
    import psutil

    process = psutil.Process(pid)
    process.suspend() if stop else process.resume()


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in 15 s"
        time.sleep(0.05)


def test_collection(new_face: Any) -> None:
    with new_face() as face:
        for _ in range(3):
            face.push("support")
        face.client.put("/v1/adapters/support/versions/v2/pin")
        digests = {f"v{n}": face.client.get(f"/v1/adapters/support/versions/v{n}").json()["digest"] for n in (1, 2, 3)}
        told = face.client.post("/v1/collections", json={"dry_run": True}).json()
        assert told["dry_run"] is True
        assert [version["version"] for version in told["versions"]] == ["v3"]
        assert face.client.get("/v1/adapters/support").json()["versions"] == 3
        done = face.client.post("/v1/collections", json={}).json()
        assert ([version["version"] for version in done["versions"]], done["blobs"]) == (["v3"], [digests["v3"]])
        assert face.client.get("/v1/adapters/support").json()["versions"] == 2
        again = face.client.post("/v1/collections", json={"dry_run": False}).json()
        assert (again["versions"], again["blobs"]) == ([], [])


@pytest.mark.parametrize("body", [{"dry_run": "yes"}, {"dry_run": 1}, {"dry_run": None}])
def test_dry_run_is_true_or_false(face: Face, body: dict[str, Any]) -> None:
    refused(face.client.post("/v1/collections", json=body), 400, "InvalidInput", "dry_run")


def test_collection_wants_a_body(face: Face) -> None:
    refused(face.client.post("/v1/collections"), 400, "InvalidInput", "body")
    refused(face.client.post("/v1/collections", json={"dry": True}), 400, "InvalidInput", "dry")
