"""Feedback and policies over HTTP; stand-in routes answer as vLLM does."""

from typing import Any
from uuid import uuid4

import httpx
import pytest
from click.testing import CliRunner

from polyad.serve.cli.main import polyad
from tests.serve.api.conftest import ADMIN_KEY, API_KEY, Face, refused


def say(face: Face, model: str, *texts: str, **fields: Any) -> str:
    """Let an adapter answer a question with these texts; the response's id."""
    id = f"chatcmpl-{uuid4().hex}"
    messages = [{"role": "user", "content": "Where is it?"}]
    body = {"model": model, "messages": messages, "id": id, "say": texts, **fields}
    assert face.client.post("/v1/chat/completions", json=body).is_success
    return id


def give(face: Face, response: str, **fields: Any) -> httpx.Response:
    return face.client.post("/v1/feedback", json={"response": response, **fields})


@pytest.fixture
def learning(face: Face, name: str) -> str:
    """An adapter that learns."""
    face.push(name)
    set_policy(face, name, mode="automatic")
    return name


def set_policy(face: Face, name: str, **fields: Any) -> dict[str, Any]:
    answer = face.client.put(f"/v1/adapters/{name}/policy", json=fields)
    assert answer.is_success, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


@pytest.mark.parametrize("stream", [False, True])
def test_feedback_on_an_answer_is_queued(face: Face, learning: str, stream: bool) -> None:
    response = say(face, learning, "There.", stream=stream)
    answer = give(face, response, thumb="up", id=f"mine-{stream}")
    assert (answer.status_code, answer.json()) == (
        201,
        {"object": "feedback", "id": f"mine-{stream}", "response": response, "adapter": learning, "version": "v1"},
    )
    assert give(face, response, thumb="up", id=f"mine-{stream}").status_code == 200
    shown = face.client.get(f"/v1/adapters/{learning}/policy").json()
    assert (shown["waiting"], shown["scores"]) == (1, {"v1": {"up": 1, "down": 0}})


def test_an_answer_that_says_nothing_can_be_corrected(face: Face, learning: str) -> None:
    assert give(face, say(face, learning, ""), correction="There.").status_code == 201
    cut = say(face, learning, "", reason="length")
    refused(give(face, cut, correction="There."), 404, "UnknownResponse", "response")


def test_one_user_s_verdicts_count_so_often_for_a_version(face: Face, learning: str) -> None:
    set_policy(face, learning, mode="automatic", canary_user_cap=2)
    for user in ("carol", "carol", "carol", "dan"):
        assert give(face, say(face, learning, "There.", user=user), thumb="down").status_code == 201
    shown = face.client.get(f"/v1/adapters/{learning}/policy").json()
    assert (shown["waiting"], shown["scores"]) == (4, {"v1": {"up": 0, "down": 3}})


def test_a_schedule_is_one_that_cron_has(face: Face, learning: str) -> None:
    assert set_policy(face, learning, mode="automatic", schedule="30 2 * * MON-FRI")["schedule"] == "30 2 * * MON-FRI"
    for wrong in ("at night", "99 2 * * *", "0 0 30 2 *", "* * * *"):
        body = {"mode": "automatic", "schedule": wrong}
        refused(face.client.put(f"/v1/adapters/{learning}/policy", json=body), 400, "InvalidInput", "schedule")


def test_feedback_on_an_unknown_response_is_refused(face: Face, learning: str) -> None:
    refused(give(face, "chatcmpl-none", thumb="up"), 404, "UnknownResponse", "response")


@pytest.mark.parametrize(
    ("texts", "fields"),
    [
        ((""), {}),
        (("There.",), {"store": False}),
        (("There.",), {"reason": "tool_calls"}),
    ],
)
def test_what_is_not_kept_takes_no_feedback(face: Face, learning: str, texts: Any, fields: dict[str, Any]) -> None:
    refused(give(face, say(face, learning, *texts, **fields), thumb="up"), 404, "UnknownResponse", "response")


def test_adapters_that_do_not_learn_keep_nothing(face: Face, learning: str) -> None:
    response = say(face, learning, "There.")
    set_policy(face, learning, mode="off")
    refused(give(face, response, thumb="up"), 409, "Conflict", "response")
    refused(give(face, say(face, learning, "There."), thumb="up"), 404, "UnknownResponse", "response")


def test_a_later_adapter_of_the_name_does_not_learn(face: Face, learning: str) -> None:
    assert give(face, say(face, learning, "There."), thumb="up").status_code == 201
    run = face.client.post("/v1/runs", json={"adapter": learning}).json()["id"]
    assert face.client.delete(f"/v1/adapters/{learning}").is_success
    face.push(learning)
    shown = face.client.get(f"/v1/adapters/{learning}/policy").json()
    assert (shown["mode"], shown["waiting"], shown["scores"]) == ("off", 0, {})
    response = say(face, f"{learning}@v2", "There.")
    refused(give(face, response, thumb="up"), 404, "UnknownResponse", "response")
    assert face.client.get(f"/v1/runs/{run}").json()["state"] == "queued"


def test_blends_keep_nothing(face: Face, learning: str) -> None:
    response = say(face, f"{learning}@v1*0.5 + b@v1*0.5", "There.")
    refused(give(face, response, thumb="up"), 404, "UnknownResponse", "response")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "feedback"),
        ({"thumb": "sideways"}, "thumb"),
        ({"score": 6}, "score"),
        ({"score": True}, "score"),
        ({"thumb": "up", "answer": 2}, "answer"),
        ({"preferred": 2}, "preferred"),
        ({"correction": "There."}, "correction"),
        ({"correction": ""}, "correction"),
        ({"thumb": "up", "more": 1}, "more"),
        ({"labels": ["x"] * 17}, "labels"),
    ],
)
def test_wrong_feedback_is_refused_by_its_field(face: Face, learning: str, fields: Any, param: str) -> None:
    response = say(face, learning, "There.", "Here.")
    refused(give(face, response, **fields), 400, "InvalidInput", param)


def test_an_id_stands_for_one_feedback(face: Face, learning: str) -> None:
    response = say(face, learning, "There.", "Here.")
    assert give(face, response, preferred=1, id=f"{learning}-a").status_code == 201
    refused(give(face, response, preferred=0, id=f"{learning}-a"), 409, "Conflict", "id")


def test_a_user_is_forgotten(face: Face, learning: str) -> None:
    response = say(face, learning, "There.", user="ann")
    assert give(face, response, thumb="down").status_code == 201
    answer = face.client.delete("/v1/feedback/users/ann").json()
    assert answer == {"object": "forgotten", "user": "ann", "interactions": 1, "events": 1, "examples": 0}
    refused(give(face, response, thumb="up"), 410, "ResponseExpired", "response")
    assert face.client.get(f"/v1/adapters/{learning}/policy").json()["waiting"] == 0


def test_settings_of_a_policy_are_checked(face: Face, learning: str) -> None:
    body = {"mode": "automatic", "settings": {"train": {"learning_rate": -1}}}
    answer = face.client.put(f"/v1/adapters/{learning}/policy", json=body)
    assert "greater than 0" in refused(answer, 400, "InvalidInput", "settings.train.learning_rate")
    missing = face.client.put("/v1/adapters/nobody/policy", json={"mode": "off"})
    refused(missing, 404, "UnknownAdapter", "adapter")


def test_a_canary_gets_its_share(face: Face, learning: str) -> None:
    face.push(learning, alias="canary")
    set_policy(face, learning, mode="automatic", canary_share=0.5)
    for _ in range(40):
        give(face, say(face, learning, "There."), thumb="up")
    scores = face.client.get(f"/v1/adapters/{learning}/policy").json()["scores"]
    assert {"v1", "v2"} == set(scores) and scores["v2"]["up"] + scores["v1"]["up"] == 40


def test_runs_begin_on_demand_and_one_at_a_time(face: Face, learning: str) -> None:
    run = face.client.post("/v1/runs", json={"adapter": learning})
    assert run.status_code == 201
    assert (run.json()["state"], run.json()["trigger"]) == ("queued", "demand")
    again = face.client.post("/v1/runs", json={"adapter": learning})
    assert run.json()["id"] in refused(again, 409, "Conflict", "adapter")
    assert face.client.get(f"/v1/runs/{run.json()['id']}").json() == run.json()
    assert run.json() in face.client.get("/v1/runs").json()["data"]
    assert face.client.post(f"/v1/runs/{run.json()['id']}/cancel").status_code == 202
    refused(face.client.post(f"/v1/runs/{run.json()['id']}/approve"), 409, "Conflict", "run")
    refused(face.client.get("/v1/runs/run-none"), 404, "UnknownRun", "run")


def test_runs_come_in_pages(face: Face, learning: str) -> None:
    face.client.post("/v1/runs", json={"adapter": learning})
    first = face.client.get("/v1/runs", params={"limit": 1}).json()
    newest = first["data"][0]
    assert newest["adapter"] == learning
    if first["after"]:
        second = face.client.get("/v1/runs", params={"limit": 1, "after": first["after"]}).json()
        assert second["data"][0]["created"] < newest["created"]


def test_feedback_needs_a_key_and_the_rest_the_admins(guarded: Face) -> None:
    user = {"Authorization": f"Bearer {API_KEY}"}
    admin = {"Authorization": f"Bearer {ADMIN_KEY}"}
    feedback = {"response": "a", "thumb": "up"}
    refused(guarded.client.post("/v1/feedback", json=feedback), 401, "Unauthenticated", None)
    assert guarded.client.post("/v1/feedback", json=feedback, headers=user).status_code == 404
    refused(guarded.client.post("/v1/runs", json={"adapter": "a"}, headers=user), 403, "Forbidden", None)
    assert guarded.client.post("/v1/runs", json={"adapter": "a"}, headers=admin).status_code == 404


def command(face: Face, *arguments: str) -> str:
    """What `polyad` prints against this server."""
    result = CliRunner().invoke(polyad, [*arguments, "--url", f"http://127.0.0.1:{face.port}"])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_commands_do_what_the_routes_do(face: Face, name: str) -> None:
    face.push(name)
    settings = '{"train": {"epochs": 2}}'
    assert "automatic" in command(face, "policy", "set", name, "automatic", "--keep-s", "60", "--settings", settings)
    response = say(face, name, "There.")
    given = command(face, "feedback", response, "--down", "--correction", "Gone.", "--label", "place", "--id", name)
    assert given == f"feedback {name} on {name}@v1\n"
    shown = command(face, "policy", "show", name)
    assert "v1: 0 up 1 down" in shown and '{"train": {"epochs": 2}}' in shown
    begun = command(face, "run", "begin", name)
    id = begun.split()[0]
    assert f"{id} of {name}: queued, step 0 of 0." in begun
    assert id in command(face, "run", "ls") and command(face, "run", "show", id) == begun
    assert command(face, "run", "cancel", id) == begun
