"""polyad.v1.Merges over a real registry and real workers."""

import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from polyad.proto import adapters_pb2, inference_pb2, merges_pb2
from polyad.proto import open_inference_pb2 as oip
from tests.serve.api.conftest import API_KEY, Face
from tests.serve.rpc.conftest import Client, Rpc, Words
from tests.serve.rpc.test_rpc import generate, refused

TIES = "ties(m-a, m-b*0.5; density=0.4)"
State = merges_pb2.Merge.State


@pytest.fixture(scope="module")
def client(rpc: Rpc) -> Client:
    client = rpc.client()
    for name in ("m-a", "m-b"):
        client.upload(name, rpc.face.files())
    return client


def submit(client: Client, **fields: Any) -> merges_pb2.Merge:
    merge: merges_pb2.Merge = client.call(client.merges.Submit, merges_pb2.SubmitMergeRequest(**fields))
    return merge


def watched(client: Client, id: str) -> list[merges_pb2.Merge]:
    return list(client.call(client.merges.Watch, merges_pb2.GetMergeRequest(id=id), 120))


def test_a_merge_is_watched_to_its_end_and_becomes_a_version(client: Client) -> None:
    begun = submit(client, expression=TIES, save_name="both", save_alias="canary")
    assert begun.expression == "ties(m-a@v1, m-b@v1*0.5; density=0.4)"
    last = watched(client, begun.id)[-1]
    assert last.state == State.DONE and last.done == last.of > 0
    assert last.rank > 0 and last.size > 0 and 0 <= last.relative_error < 1
    assert json.loads(last.report)["method"] == "ties"
    again = submit(client, expression=TIES, save_name="both", save_alias="canary")
    assert (again.id, again.version, again.state) == (begun.id, "both@v1", State.DONE)
    adapter = client.call(client.adapters.Get, adapters_pb2.GetAdapterRequest(name="both"))
    assert adapter.aliases["canary"] == "v1"
    assert adapter.versions[0].digest == last.digest
    listed = client.call(client.merges.List, merges_pb2.ListMergesRequest())
    assert begun.id in [merge.id for merge in listed.merges]


def test_a_merge_in_a_request_is_computed_for_it(client: Client, rpc: Rpc) -> None:
    models = {
        "m-a*0.5 + ties(m-a, m-b; seed=1)": "ties(m-a@v1, m-b@v1; seed=1)",
        "slerp(m-b, m-a)": "slerp(m-b@v1, m-a@v1)",
    }
    first, second = models
    list(client.call(client.inference.Generate, inference_pb2.GenerateRequest(model=first, prompt="one two"), 60))
    tensor = oip.ModelInferRequest.InferInputTensor(name="text_input", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(b"one two")
    client.call(client.open_inference.ModelInfer, oip.ModelInferRequest(model_name=second, inputs=[tensor]), 60)
    merges = client.call(client.merges.List, merges_pb2.ListMergesRequest()).merges
    assert {merge.expression for merge in merges if merge.state == State.DONE} >= set(models.values())


def test_a_request_that_has_waited_is_told_when_to_come_again(new_face: Callable[..., Face]) -> None:
    with new_face(merge_wait_s=0) as face, grpc.insecure_channel(face.rpc_address) as channel:
        face.generation = Words()
        client = Client(channel, None)
        for name in ("m-a", "m-b"):
            client.upload(name, face.files())
        asked = lambda: generate(client, model=TIES, prompt="x")  # noqa: E731
        message = refused(asked, grpc.StatusCode.UNAVAILABLE, "MERGE_PENDING")
        assert watched(client, message.partition("/v1/merges/")[2].split(",")[0])[-1].state == State.DONE
        assert list(asked())[-1].finish_reason == "stop"


def test_refusals_have_their_status(client: Client, rpc: Rpc) -> None:
    invalid, conflict, missing = (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.NOT_FOUND,
    )
    refused(lambda: submit(client, expression="ties(m-a"), invalid, "INVALID_INPUT", "expression")
    refused(lambda: submit(client, expression=TIES, save_alias="x"), invalid, "INVALID_INPUT", "save_name")
    refused(lambda: watched(client, "0" * 64), missing, "UNKNOWN_MERGE", "merge")
    ended = watched(client, submit(client, expression="slerp(m-a, m-b)").id)[-1]
    cancel = merges_pb2.GetMergeRequest(id=ended.id)
    refused(lambda: client.call(client.merges.Cancel, cancel), conflict, "CONFLICT", "merge")
    user = rpc.client(API_KEY)
    refused(lambda: submit(user, expression=TIES), grpc.StatusCode.PERMISSION_DENIED, "FORBIDDEN")


def test_merges_are_a_tenants_own(client: Client, rpc: Rpc) -> None:
    id = submit(client, expression=TIES).id
    other = rpc.client(rpc.key("other"))
    refused(lambda: watched(other, id), grpc.StatusCode.NOT_FOUND, "UNKNOWN_MERGE", "merge")
    assert not other.call(other.merges.List, merges_pb2.ListMergesRequest()).merges
