"""gRPC clients that hold nothing of polyad's: one that knows only reflection, and Triton's, which speaks KServe's
Open Inference Protocol.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from polyad.adapters_store.base_model import BaseModel
from tests.fixtures.adapters import CONFIG, WEIGHTS
from tests.fixtures.server import ServerProcess

PROMPT = "Once upon a time there was a"
TOKENS = 12

# In a process of its own: its messages have the names of ours, and one pool of protobuf's holds a name once.
TRITON = """
import json, sys
import numpy as np
import tritonclient.grpc as triton

address, model, prompt, tokens = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
client = triton.InferenceServerClient(address)
text = triton.InferInput("text_input", [1], "BYTES")
text.set_data_from_numpy(np.array([prompt.encode()], dtype=np.object_))
parameters = {"max_tokens": tokens, "temperature": 0.0, "ignore_eos": True}
answer = client.infer(model, [text], outputs=[triton.InferRequestedOutput("text_output")], parameters=parameters)
try:
    client.infer("nobody", [text])
    refused = ""
except triton.InferenceServerException as error:
    refused = f"{error.status()} {error.message()}"
print(json.dumps({
    "live": client.is_server_live(),
    "ready": client.is_server_ready(),
    "model_ready": client.is_model_ready(model),
    "inputs": [one.name for one in client.get_model_metadata(model).inputs],
    "text": answer.as_numpy("text_output")[0].decode(),
    "refused": refused,
}))
"""


class Reflected:
    """Calls methods by their names, with messages as dictionaries, from what the server says of itself."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))

    def message(self, name: str, /, **fields: Any) -> Any:
        return GetMessageClass(self._pool.FindMessageTypeByName(name))(**fields)

    def call(self, service: str, method: str, sent: Any, timeout: float = 120) -> Any:
        """`sent` is a message, or an iterator of messages where the method takes a stream."""
        found = self._pool.FindServiceByName(service).FindMethodByName(method)
        streams = found.client_streaming, found.server_streaming
        kinds = {(False, False): "unary_unary", (False, True): "unary_stream", (True, False): "stream_unary"}
        output = GetMessageClass(found.output_type)
        caller = getattr(self._channel, kinds[streams])(
            f"/{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=output.FromString,
        )
        return caller(sent, timeout=timeout)

    def services(self) -> list[str]:
        return list(ProtoReflectionDescriptorDatabase(self._channel).get_services())


@pytest.fixture(scope="module")
def reflected(server: ServerProcess) -> Iterator[Reflected]:
    with grpc.insecure_channel(server.rpc_address) as channel:
        yield Reflected(channel)


def completion(client: httpx.Client, model: str) -> str:
    body = {"model": model, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
    text: str = client.post("/v1/completions", json=body).raise_for_status().json()["choices"][0]["text"]
    return text


def generate(reflected: Reflected, model: str, tokens: int = TOKENS) -> Any:
    sampling = reflected.message("polyad.v1.Sampling", max_tokens=tokens, temperature=0.0, ignore_eos=True)
    request = reflected.message("polyad.v1.GenerateRequest", model=model, prompt=PROMPT, sampling=sampling)
    return reflected.call("polyad.v1.Inference", "Generate", request)


def test_reflection_alone_is_enough_to_push_promote_and_generate(
    reflected: Reflected, client: httpx.Client, new_name: Callable[[], str], make_adapter: Callable[..., Path]
) -> None:
    assert {"polyad.v1.Inference", "polyad.v1.Adapters", "inference.GRPCInferenceService"} <= set(reflected.services())
    name, folders = new_name(), [make_adapter(seed=seed, size=0.2) for seed in (11, 12)]

    def parts(folder: Path) -> Iterator[Any]:
        header = reflected.message("polyad.v1.UploadHeader", name=name, config=(folder / CONFIG).read_bytes())
        yield reflected.message("polyad.v1.UploadRequest", header=header)
        weights = (folder / WEIGHTS).read_bytes()
        for start in range(0, len(weights), 1 << 20):
            yield reflected.message("polyad.v1.UploadRequest", weights=weights[start : start + (1 << 20)])

    for folder in folders:
        assert reflected.call("polyad.v1.Adapters", "Upload", parts(folder)).created
    pieces = list(generate(reflected, name))
    assert len(pieces) > 1 and pieces[-1].model == f"{name}@v1"
    assert "".join(piece.text for piece in pieces) == completion(client, f"{name}@v1")
    change = reflected.message(
        "polyad.v1.SetAliasRequest", name=name, alias="production", version="v2", if_current="v1"
    )
    assert dict(reflected.call("polyad.v1.Adapters", "SetAlias", change).aliases)["production"] == "v2"
    pieces = list(generate(reflected, name))
    assert pieces[-1].model == f"{name}@v2"
    assert "".join(piece.text for piece in pieces) == completion(client, f"{name}@v2")


def test_cancelling_ends_the_work(reflected: Reflected, client: httpx.Client, base: BaseModel) -> None:
    stream = generate(reflected, base.name, tokens=900)
    assert next(stream).model == base.name
    stream.cancel()
    with pytest.raises(grpc.RpcError) as cancelled:
        list(stream)
    error: Any = cancelled.value
    assert error.code() == grpc.StatusCode.CANCELLED
    deadline = time.monotonic() + 120
    while running(client):
        assert time.monotonic() < deadline, "the engine goes on"
        time.sleep(0.1)


def running(client: httpx.Client) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running{"))


def test_tritons_client_gets_the_same_answer(server: ServerProcess, client: httpx.Client, base: BaseModel) -> None:
    command = [sys.executable, "-W", "ignore", "-c", TRITON, server.rpc_address, base.name, PROMPT, str(TOKENS)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["text"] == completion(client, base.name)
    assert found["live"] and found["ready"] and found["model_ready"] and found["inputs"] == ["text_input"]
    assert found["refused"].startswith("StatusCode.NOT_FOUND") and "nobody" in found["refused"]
