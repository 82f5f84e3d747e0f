"""polyad's gRPC services over a real registry, blobs and admission, reached over TCP; only the engine is missing."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from polyad.proto import (
    adapters_pb2,
    adapters_pb2_grpc,
    feedback_pb2_grpc,
    inference_pb2_grpc,
    merges_pb2_grpc,
    open_inference_pb2_grpc,
)
from polyad.serve.service import current_caller
from tests.serve.api.conftest import ADMIN_KEY, API_KEY, Face, new_face, tiny_base

# Two of them are fixtures of this folder, too.
__all__ = ["Client", "Rpc", "Words", "new_face", "rpc", "tiny_base"]


@dataclass
class Words:
    """Stands in for the engine: says what it was asked, word by word."""

    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    ended: int = 0
    pause_s: float = 0.0
    label: str = "answerer@v1"

    async def stream(self, body: dict[str, Any]) -> AsyncIterator[Any]:
        from polyad.serve.engine.generation import Piece

        self.asked.append((current_caller.get().tenant, body))
        said = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        try:
            words = said.split() or [""]
            for word in words[:-1]:
                yield Piece("id", self.label, word + " ")
                await asyncio.sleep(self.pause_s)
            yield Piece("id", self.label, words[-1], "stop", len(words), len(words))
        finally:
            self.ended += 1


class Client:
    """Stubs of all services, with one key."""

    def __init__(self, channel: grpc.Channel, key: str | None) -> None:
        self.metadata = [("authorization", f"Bearer {key}")] if key else []
        self.inference = inference_pb2_grpc.InferenceStub(channel)
        self.adapters = adapters_pb2_grpc.AdaptersStub(channel)
        self.merges = merges_pb2_grpc.MergesStub(channel)
        self.feedback = feedback_pb2_grpc.FeedbackStub(channel)
        self.open_inference = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)

    def call(self, method: Any, request: Any, timeout: float = 20) -> Any:
        return method(request, metadata=self.metadata, timeout=timeout)

    def upload(self, name: str, files: dict[str, bytes], *aliases: str, piece: int = 1000) -> Any:
        def parts() -> Iterator[adapters_pb2.UploadRequest]:
            header = adapters_pb2.UploadHeader(name=name, config=files["config"], aliases=aliases)
            yield adapters_pb2.UploadRequest(header=header)
            for start in range(0, len(files["weights"]), piece):
                yield adapters_pb2.UploadRequest(weights=files["weights"][start : start + piece])

        return self.adapters.Upload(parts(), metadata=self.metadata, timeout=20)


@dataclass
class Rpc:
    face: Face
    words: Words
    channel: grpc.Channel

    def client(self, key: str | None = ADMIN_KEY) -> Client:
        return Client(self.channel, key)

    def key(self, tenant: str, role: str = "publisher") -> str:
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        made = self.face.client.post("/v1/keys", json={"tenant": tenant, "role": role}, headers=headers)
        secret: str = made.json()["secret"]
        return secret


@pytest.fixture(scope="module")
def rpc(new_face: Callable[..., Face]) -> Iterator[Rpc]:
    with new_face(api_key=API_KEY, admin_key=ADMIN_KEY) as face:
        face.generation = Words()
        with grpc.insecure_channel(face.rpc_address) as channel:
            yield Rpc(face, face.generation, channel)
