"""No message brings the server down, nor is any a fault of its own."""

from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st

from polyad.proto import adapters_pb2, feedback_pb2, inference_pb2, merges_pb2
from polyad.proto import open_inference_pb2 as oip
from tests.fixtures.fuzzing import fuzz
from tests.fixtures.messages import messages, mutated
from tests.serve.rpc.conftest import Rpc

METHODS: list[MethodDescriptor] = [
    method
    for file in (inference_pb2, adapters_pb2, merges_pb2, feedback_pb2, oip)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
WORDS = [
    "tiny",
    "production",
    "v1",
    "user",
    "say this",
    "",
    "tiny*0.5 + tiny",
    "ties(tiny, tiny)",
    "public/tiny",
    "BYTES",
]
FAULTS = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}


def call(rpc: Rpc, method: MethodDescriptor, contents: list[bytes]) -> None:
    """Any bytes to any method; no answer may be a fault."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    shape = ("stream" if method.client_streaming else "unary") + ("_stream" if method.server_streaming else "_unary")
    send: Any = getattr(rpc.channel, shape)(path, request_serializer=None, response_deserializer=None)
    try:
        sent = iter(contents) if method.client_streaming else contents[0]
        answer = send(sent, metadata=rpc.client().metadata, timeout=60)
        list(answer) if method.server_streaming else answer
    except grpc.RpcError as raised:
        error: Any = raised
        assert error.code() not in FAULTS, error


def still_answers(rpc: Rpc) -> None:
    client = rpc.client()
    request = inference_pb2.GenerateRequest(model="tiny", prompt="still here")
    assert list(client.call(client.inference.Generate, request))[-1].finish_reason == "stop"


@fuzz(60)
@given(content=st.binary(max_size=300), method=st.sampled_from(METHODS))
def test_random_bytes(rpc: Rpc, content: bytes, method: MethodDescriptor) -> None:
    call(rpc, method, [content])
    still_answers(rpc)


@fuzz(100)
@given(data=st.data(), method=st.sampled_from(METHODS))
def test_random_messages(rpc: Rpc, data: st.DataObject, method: MethodDescriptor) -> None:
    kind = messages(GetMessageClass(method.input_type), WORDS)
    sent = data.draw(st.lists(kind, min_size=1, max_size=3))
    call(rpc, method, [one.SerializeToString() for one in sent])
    still_answers(rpc)


@fuzz(100)
@given(data=st.data(), method=st.sampled_from(METHODS))
def test_mutated_messages(rpc: Rpc, data: st.DataObject, method: MethodDescriptor) -> None:
    message = data.draw(messages(GetMessageClass(method.input_type), WORDS))
    call(rpc, method, [data.draw(mutated(message.SerializeToString()))])
    still_answers(rpc)
