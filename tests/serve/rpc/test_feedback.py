"""polyad.v1.Feedback over a real registry and queue, and what gRPC's answers leave for it."""

import itertools
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from polyad.proto import adapters_pb2, feedback_pb2
from tests.serve.rpc.conftest import Client, Rpc
from tests.serve.rpc.test_rpc import generate, refused

_numbers = itertools.count(1)
INVALID, MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


@pytest.fixture
def name() -> str:
    return f"learner-{next(_numbers)}"


@pytest.fixture
def learning(rpc: Rpc, name: str) -> Iterator[Client]:
    """A client of a tenant of its own, whose adapter learns; the engine answers as that adapter."""
    client = rpc.client(rpc.key(name))
    client.upload(name, rpc.face.files())
    admin = rpc.client(rpc.key(name, "admin"))
    policy = {"mode": "automatic", "canary_share": 1}
    put = rpc.face.client.put(f"/v1/adapters/{name}/policy", json=policy, headers=dict(admin.metadata))
    assert put.is_success, put.text
    rpc.words.label = f"{name}@v1"
    yield client
    rpc.words.label = "answerer@v1"


def give(client: Client, response: str = "id", **fields: Any) -> feedback_pb2.GiveFeedbackResponse:
    request = feedback_pb2.GiveFeedbackRequest(response=response, **fields)
    given: feedback_pb2.GiveFeedbackResponse = client.call(client.feedback.Give, request)
    return given


def state(rpc: Rpc, client: Client, name: str) -> dict[str, Any]:
    found = rpc.face.client.get(f"/v1/adapters/{name}/policy", headers=dict(client.metadata))
    shown: dict[str, Any] = found.json()
    return shown


def test_an_answer_takes_feedback(rpc: Rpc, learning: Client, name: str) -> None:
    (*_, last) = generate(learning, model=name, prompt="Where is it?", user="ann")
    given = give(learning, last.id, thumb=feedback_pb2.DOWN, correction="There.", id="mine")
    assert (given.id, given.response, given.version, given.given_before) == ("mine", last.id, f"{name}@v1", False)
    assert give(learning, last.id, thumb=feedback_pb2.DOWN, correction="There.", id="mine").given_before
    shown = state(rpc, learning, name)
    assert (shown["waiting"], shown["scores"]) == (1, {"v1": {"up": 0, "down": 1}})
    forget = feedback_pb2.ForgetUserRequest(user="ann")
    refused(lambda: learning.call(learning.feedback.ForgetUser, forget), grpc.StatusCode.PERMISSION_DENIED, "FORBIDDEN")
    admin = rpc.client(rpc.key(name, "admin"))
    forgotten = admin.call(admin.feedback.ForgetUser, forget)
    assert (forgotten.interactions, forgotten.events) == (1, 1)


def test_what_is_not_to_be_kept_takes_none(rpc: Rpc, learning: Client, name: str) -> None:
    list(generate(learning, model=name, prompt="Where is it?", store=False))
    refused(lambda: give(learning, thumb=feedback_pb2.UP), MISSING, "UNKNOWN_RESPONSE", "response")


def test_another_tenant_s_answer_is_unknown(rpc: Rpc, learning: Client, name: str) -> None:
    list(generate(learning, model=name, prompt="Where is it?"))
    other = rpc.client(rpc.key(f"{name}-other"))
    refused(lambda: give(other, thumb=feedback_pb2.UP), MISSING, "UNKNOWN_RESPONSE", "response")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "feedback"),
        ({"thumb": 7}, "thumb"),
        ({"score": 6}, "score"),
        ({"score": 0}, "score"),
        ({"thumb": 1, "answer": 1}, "answer"),
        ({"preferred": 1}, "preferred"),
        ({"correction": ""}, "correction"),
        ({"correction": "Where is it?"}, "correction"),
        ({"labels": ["x"] * 17}, "labels"),
    ],
)
def test_wrong_feedback_is_refused_by_its_field(
    rpc: Rpc, learning: Client, name: str, fields: dict[str, Any], field: str
) -> None:
    list(generate(learning, model=name, prompt="Where is it?"))
    refused(lambda: give(learning, **fields), INVALID, "INVALID_INPUT", field)


def test_a_canary_gets_its_share(rpc: Rpc, learning: Client, name: str) -> None:
    learning.upload(name, rpc.face.files(), "canary")
    list(generate(learning, model=name, prompt="x"))
    assert rpc.words.asked[-1][1]["model"] == f"{name}@canary"


def test_what_is_deleted_learns_no_more(rpc: Rpc, learning: Client, name: str) -> None:
    learning.call(learning.adapters.Delete, adapters_pb2.DeleteAdapterRequest(name=name))
    learning.upload(name, rpc.face.files())
    assert state(rpc, learning, name)["mode"] == "off"
