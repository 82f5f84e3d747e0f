"""What the gRPC services answer, and how they refuse."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from polyad.proto import adapters_pb2, inference_pb2
from polyad.proto import open_inference_pb2 as oip
from tests.serve.rpc.conftest import Client, Rpc

_numbers = itertools.count(1)


@pytest.fixture
def name() -> str:
    return f"adapter-{next(_numbers)}"


def refused(call: Callable[[], Any], code: grpc.StatusCode, reason: str, field: str = "") -> str:
    """Check that a call ends with a status and its details; the message."""
    with pytest.raises(grpc.RpcError) as raised:
        answer = call()
        if isinstance(answer, Iterator):
            list(answer)
    error: Any = raised.value
    assert error.code() == code, error
    status = rpc_status.from_call(error)
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain, info.metadata.get("field", "")) == (reason, "polyad", field)
    if code == grpc.StatusCode.INVALID_ARGUMENT and field:
        violation = BadRequest()
        assert status.details[1].Unpack(violation) and violation.field_violations[0].field == field
    message: str = status.message
    return message


def generate(client: Client, timeout: float = 20, **fields: Any) -> Any:
    return client.call(client.inference.Generate, inference_pb2.GenerateRequest(**fields), timeout)


def test_an_answer_is_a_stream_that_ends_with_reason_and_usage(rpc: Rpc) -> None:
    sampling = inference_pb2.Sampling(max_tokens=5, temperature=0, stop=["x"], seed=7)
    chat = inference_pb2.Chat(messages=[inference_pb2.Message(role="user", content="one two three")])
    answers = list(generate(rpc.client(), model="tiny", chat=chat, sampling=sampling, priority=3))
    assert [answer.text for answer in answers] == ["one ", "two ", "three"]
    assert [answer.finish_reason for answer in answers] == ["", "", "stop"]
    assert (answers[-1].usage.prompt_tokens, answers[-1].usage.completion_tokens) == (3, 3)
    assert {answer.model for answer in answers} == {"answerer@v1"}
    body = {"model": "tiny", "priority": 3, "messages": [{"role": "user", "content": "one two three"}]}
    sampled = {"max_tokens": 5, "temperature": 0.0, "stop": ["x"], "seed": 7}
    assert rpc.words.asked[-1] == ("public", body | sampled)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": "x"}, "model"),
        ({"model": "tiny"}, "input"),
        ({"model": "tiny", "chat": inference_pb2.Chat()}, "chat.messages"),
        (
            {"model": "tiny", "chat": inference_pb2.Chat(messages=[inference_pb2.Message(role="root", content="x")])},
            "chat.messages.0.role",
        ),
    ],
)
def test_what_cannot_be_asked(rpc: Rpc, fields: dict[str, Any], field: str) -> None:
    refused(lambda: generate(rpc.client(), **fields), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT", field)


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_a_client_that_leaves_ends_the_work(rpc: Rpc, how: str) -> None:
    ended = rpc.words.ended
    rpc.words.pause_s = 0.05
    try:
        stream = generate(rpc.client(), model="tiny", prompt="word " * 2000, timeout=0.5 if how == "deadline" else 20)
        assert next(stream).text == "word "
        if how == "cancel":
            stream.cancel()
        else:
            with pytest.raises(grpc.RpcError) as late:
                list(stream)
            error: Any = late.value
            assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        end = time.monotonic() + 60
        while rpc.words.ended == ended:
            assert time.monotonic() < end, "the work goes on"
            time.sleep(0.01)
    finally:
        rpc.words.pause_s = 0


def test_adapters_are_pushed_shown_promoted_and_deleted(rpc: Rpc, name: str) -> None:
    client = rpc.client(rpc.key("acme"))
    first, second = rpc.face.files(), rpc.face.files()
    pushed = client.upload(name, first, "canary")
    assert (pushed.version.version, pushed.created) == ("v1", True)
    again = client.upload(name, first, piece=100_000)
    assert (again.version.digest, again.created) == (pushed.version.digest, False)
    assert client.upload(name, second).version.version == "v2"
    promote = adapters_pb2.SetAliasRequest(name=name, alias="production", version="v2", if_current="v1")
    assert dict(client.call(client.adapters.SetAlias, promote).aliases) == {
        "production": "v2",
        "previous": "v1",
        "canary": "v1",
    }
    refused(
        lambda: client.call(client.adapters.SetAlias, promote), grpc.StatusCode.ABORTED, "ALIAS_MOVED", "if_current"
    )
    shown = client.call(client.adapters.Get, adapters_pb2.GetAdapterRequest(name=name))
    assert [version.version for version in shown.versions] == ["v2", "v1"]
    listed = client.call(client.adapters.List, adapters_pb2.ListAdaptersRequest(limit=1))
    assert [adapter.name for adapter in listed.adapters] == [name]
    client.call(client.adapters.Delete, adapters_pb2.DeleteAdapterRequest(name=name))
    gone = lambda: client.call(client.adapters.Get, adapters_pb2.GetAdapterRequest(name=name))  # noqa: E731
    refused(gone, grpc.StatusCode.NOT_FOUND, "UNKNOWN_ADAPTER", "adapter")


def test_uploads_that_are_none(rpc: Rpc, name: str) -> None:
    client = rpc.client()
    upload = adapters_pb2.UploadRequest
    header = upload(header=adapters_pb2.UploadHeader(name=name, config=b"{}"))
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    for parts, reason, field in (
        ([], "INVALID_INPUT", "part"),
        ([upload(weights=b"x")], "INVALID_INPUT", "part"),
        ([header, header], "INVALID_INPUT", "part"),
        ([header], "INVALID_INPUT", "weights"),
        ([header, *[upload(weights=bytes(100_000))] * 3], "TOO_LARGE", "weights"),
        ([upload(header=adapters_pb2.UploadHeader(name="../x"))], "INVALID_NAME", "name"),
    ):
        send = lambda parts=parts: client.adapters.Upload(iter(parts), metadata=client.metadata, timeout=20)  # noqa: E731
        refused(send, invalid, reason, field)
    with pytest.raises(grpc.RpcError) as raised:
        client.upload(name, rpc.face.files() | {"weights": bytes(5000)})
    assert raised.value.code() == invalid


def calls(client: Client, name: str) -> dict[str, Callable[[], Any]]:
    """Every method that takes a name, for this one."""
    get, delete = adapters_pb2.GetAdapterRequest(name=name), adapters_pb2.DeleteAdapterRequest(name=name)
    alias = adapters_pb2.SetAliasRequest(name=name, alias="canary", version="v1")
    return {
        "Get": lambda: client.call(client.adapters.Get, get),
        "Delete": lambda: client.call(client.adapters.Delete, delete),
        "SetAlias": lambda: client.call(client.adapters.SetAlias, alias),
        "ModelMetadata": lambda: client.call(client.open_inference.ModelMetadata, oip.ModelMetadataRequest(name=name)),
        "ModelReady": lambda: client.call(client.open_inference.ModelReady, oip.ModelReadyRequest(name=name)),
    }


def outcome(call: Callable[[], Any], name: str) -> tuple[Any, str, str]:
    try:
        return None, str(call()), ""
    except grpc.RpcError as raised:
        error: Any = raised
        details = str(rpc_status.from_call(error))
        return error.code(), error.details().replace(name, "NAME"), details.replace(name, "NAME")


@pytest.mark.parametrize("role", ["user", "publisher", "admin"])
@pytest.mark.parametrize("method", ["Get", "Delete", "SetAlias", "ModelMetadata", "ModelReady"])
def test_names_of_another_tenant_are_as_if_they_were_none(rpc: Rpc, name: str, method: str, role: str) -> None:
    assert rpc.client(rpc.key("acme")).upload(name, rpc.face.files()).created
    other = rpc.client(rpc.key("other", role))
    known = outcome(calls(other, name)[method], name)
    # of the same length, for details hold it packed
    nobody = "n" * len(name)
    assert known == outcome(calls(other, nobody)[method], nobody)
    assert known[0] is not None or method == "ModelReady"
    assert (
        rpc.client(rpc.key("acme", "user"))
        .call(other.open_inference.ModelReady, oip.ModelReadyRequest(name=name))
        .ready
    )


@pytest.mark.parametrize("key", [None, "wrong", "polyad_000000000000_gone"])
def test_without_a_valid_key_nothing_is_told(rpc: Rpc, key: str | None) -> None:
    client = rpc.client(key)
    for method, call in calls(client, "some").items():
        refused(call, grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"), method
    refused(lambda: generate(client, model="tiny", prompt="x"), grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    refused(lambda: client.upload("some", rpc.face.files()), grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")


def test_roles(rpc: Rpc, name: str) -> None:
    user, publisher = rpc.client(rpc.key("acme", "user")), rpc.client(rpc.key("acme"))
    denied = grpc.StatusCode.PERMISSION_DENIED
    refused(lambda: user.upload(name, rpc.face.files()), denied, "FORBIDDEN")
    refused(lambda: publisher.upload(f"public/{name}", rpc.face.files()), denied, "FORBIDDEN")
    assert rpc.client().upload(f"public/{name}", rpc.face.files()).created
    shown = user.call(user.adapters.Get, adapters_pb2.GetAdapterRequest(name=f"public/{name}"))
    assert shown.name == name
    listed = user.call(user.adapters.List, adapters_pb2.ListAdaptersRequest(public=True, limit=1000))
    assert name in [adapter.name for adapter in listed.adapters]


def test_limits_hold_for_grpc_too(rpc: Rpc) -> None:
    headers = {"authorization": "Bearer the-admin-key"}
    rpc.face.client.put("/v1/tenants/small", json={"requests_per_minute": 1}, headers=headers)
    client = rpc.client(rpc.key("small", "user"))
    while time.time() % 60 > 55:
        time.sleep(0.5)
    assert list(generate(client, model="tiny", prompt="x"))
    with pytest.raises(grpc.RpcError) as raised:
        list(generate(client, model="tiny", prompt="x"))
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    retry = RetryInfo()
    assert rpc_status.from_call(raised.value).details[1].Unpack(retry)
    assert 0 < retry.retry_delay.seconds <= 60


def test_open_inference(rpc: Rpc) -> None:
    client = rpc.client()
    service = client.open_inference
    assert client.call(service.ServerLive, oip.ServerLiveRequest()).live
    assert client.call(service.ServerReady, oip.ServerReadyRequest()).ready
    assert client.call(service.ServerMetadata, oip.ServerMetadataRequest()).name == "polyad"
    metadata = client.call(service.ModelMetadata, oip.ModelMetadataRequest(name="tiny"))
    assert [(one.name, one.datatype, list(one.shape)) for one in (*metadata.inputs, *metadata.outputs)] == [
        ("text_input", "BYTES", [1]),
        ("text_output", "BYTES", [1]),
    ]
    plain = infer("two words")
    plain.parameters["max_tokens"].int64_param = 3
    plain.parameters["temperature"].double_param = 0
    answer = client.call(service.ModelInfer, plain)
    assert (answer.id, answer.outputs[0].contents.bytes_contents[0]) == ("7", b"two words")
    assert rpc.words.asked[-1][1] == {"model": "tiny", "prompt": "two words", "max_tokens": 3, "temperature": 0.0}
    raw = infer("two words")
    raw.inputs[0].ClearField("contents")
    raw.raw_input_contents.append(b"\x09\x00\x00\x00two words")
    assert client.call(service.ModelInfer, raw).raw_output_contents[0] == b"\x09\x00\x00\x00two words"


def infer(text: str) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name="tiny", id="7")
    tensor = request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(text.encode())
    return request


def test_inferences_that_are_none(rpc: Rpc) -> None:
    client = rpc.client()
    bad: dict[str, oip.ModelInferRequest] = {}
    for field in ("model_name", "inputs", "inputs.text_input", "raw_input_contents", "parameters.size", "outputs.name"):
        bad[field] = infer("x")
    bad["model_name"].model_name = ""
    bad["inputs"].inputs[0].name = "image"
    bad["inputs.text_input"].inputs[0].shape[0] = 2
    bad["raw_input_contents"].inputs[0].ClearField("contents")
    bad["raw_input_contents"].raw_input_contents.append(b"\xff\xff\xff\xffx")
    bad["parameters.size"].parameters["size"].int64_param = 1
    bad["outputs.name"].outputs.add(name="logits")
    for field, request in bad.items():
        ask = lambda request=request: client.call(client.open_inference.ModelInfer, request)  # noqa: E731
        refused(ask, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT", field)


def test_health_follows_readiness(rpc: Rpc) -> None:
    stub = health_pb2_grpc.HealthStub(rpc.channel)
    service = "polyad.v1.Inference"
    said: list[int] = []
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=service))

    def listen() -> None:
        try:
            said.extend(update.status for update in watch)
        except grpc.RpcError:
            pass

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        for ready in (True, False, True):
            rpc.face.engine.ready = ready
            wanted = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
            end = time.monotonic() + 60
            while stub.Check(health_pb2.HealthCheckRequest(service="")).status != wanted:
                assert time.monotonic() < end
                time.sleep(0.02)
            if not ready:
                away = lambda: generate(rpc.client(), model="tiny", prompt="x")  # noqa: E731
                refused(away, grpc.StatusCode.UNAVAILABLE, "ENGINE_UNAVAILABLE")
    finally:
        rpc.face.engine.ready = True
        watch.cancel()
        listener.join()
    assert said[0] == health_pb2.HealthCheckResponse.SERVING and health_pb2.HealthCheckResponse.NOT_SERVING in said


def test_reflection_tells_all_services(rpc: Rpc) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(rpc.channel)
    asks = [reflection_pb2.ServerReflectionRequest(list_services="")]
    asks += [reflection_pb2.ServerReflectionRequest(file_containing_symbol="polyad.v1.Inference")]
    listed, file = stub.ServerReflectionInfo(iter(asks))
    names = {service.name for service in listed.list_services_response.service}
    own = {f"polyad.v1.{name}" for name in ("Inference", "Adapters", "Merges", "Feedback")}
    assert names >= own | {"inference.GRPCInferenceService"}
    found = FileDescriptorProto.FromString(file.file_descriptor_response.file_descriptor_proto[0])
    assert [method.name for method in found.service[0].method] == ["Generate"]


def test_messages_have_a_bound(rpc: Rpc) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        list(generate(rpc.client(), model="tiny", prompt="x" * (5 * 1024 * 1024)))
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
