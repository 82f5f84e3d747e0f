"""gRPC on a real server: the same answers as HTTP's, and an end to the work when a client leaves."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from polyad.adapters_store.base_model import BaseModel
from polyad.proto import adapters_pb2, adapters_pb2_grpc, inference_pb2, inference_pb2_grpc, open_inference_pb2_grpc
from polyad.proto import open_inference_pb2 as oip
from tests.fixtures.adapters import CONFIG, WEIGHTS
from tests.fixtures.server import ServerProcess

PROMPT = "Once upon a time there was a"
TOKENS = 12


@pytest.fixture(scope="module")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.rpc_address) as channel:
        yield channel


@pytest.fixture
def generate(channel: grpc.Channel) -> Callable[..., Any]:
    stub = inference_pb2_grpc.InferenceStub(channel)

    def asked(timeout: float = 120, tokens: int = TOKENS, **fields: Any) -> Any:
        sampling = inference_pb2.Sampling(max_tokens=tokens, temperature=0, ignore_eos=True)
        return stub.Generate(inference_pb2.GenerateRequest(sampling=sampling, **fields), timeout=timeout)

    return asked


def over_http(client: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    sampling = {"max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
    answer = client.post(path, json={**sampling, **body})
    assert answer.is_success, answer.text
    found: dict[str, Any] = answer.json()
    return found


def running(client: httpx.Client) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running{"))


@pytest.mark.parametrize("kind", ["base", "adapter", "blend"])
def test_the_answer_is_http_s(
    generate: Callable[..., Any], client: httpx.Client, base: BaseModel, new_adapter: Callable[..., str], kind: str
) -> None:
    model = base.name if kind == "base" else new_adapter(seed=1, size=0.2)
    model += "*0.5" if kind == "blend" else ""
    wanted = over_http(client, "/v1/completions", model=model, prompt=PROMPT)
    pieces = list(generate(model=model, prompt=PROMPT))
    assert "".join(piece.text for piece in pieces) == wanted["choices"][0]["text"]
    assert len(pieces) > 1
    last = pieces[-1]
    assert (last.finish_reason, last.model) == ("length", wanted["model"])
    usage = wanted["usage"]
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (usage["prompt_tokens"], TOKENS)
    chat = inference_pb2.Chat(messages=[inference_pb2.Message(role="user", content="Hello")])
    talked = over_http(client, "/v1/chat/completions", model=model, messages=[{"role": "user", "content": "Hello"}])
    said = "".join(piece.text for piece in generate(model=model, chat=chat))
    assert said == talked["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"model": "nobody", "prompt": "x"}, grpc.StatusCode.NOT_FOUND),
        ({"model": "nobody*0.5", "prompt": "x"}, grpc.StatusCode.NOT_FOUND),
        ({"model": "a b", "prompt": "x"}, grpc.StatusCode.NOT_FOUND),
        ({"model": "(a", "prompt": "x"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"prompt": "word " * 5000}, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_refusals_are_statuses(
    generate: Callable[..., Any], base: BaseModel, fields: dict[str, Any], code: grpc.StatusCode
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        list(generate(**{"model": base.name} | fields))
    error: Any = refused.value
    assert error.code() == code, error


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_leaving_ends_the_work_in_the_engine(
    generate: Callable[..., Any], client: httpx.Client, base: BaseModel, how: str
) -> None:
    stream = generate(timeout=3 if how == "deadline" else 120, tokens=900, model=base.name, prompt=PROMPT)
    assert next(stream).model == base.name
    assert running(client) == 1
    if how == "cancel":
        stream.cancel()
    with pytest.raises(grpc.RpcError):
        list(stream)
    end = time.monotonic() + 60
    while running(client):
        assert time.monotonic() < end, "the engine goes on"
        time.sleep(0.1)


def test_an_adapter_is_uploaded_and_answers(
    channel: grpc.Channel, generate: Callable[..., Any], new_name: Callable[[], str], make_adapter: Callable[..., Path]
) -> None:
    name, folder = new_name(), make_adapter(seed=4, size=0.2)
    weights = (folder / WEIGHTS).read_bytes()

    def parts() -> Iterator[adapters_pb2.UploadRequest]:
        header = adapters_pb2.UploadHeader(name=name, config=(folder / CONFIG).read_bytes())
        yield adapters_pb2.UploadRequest(header=header)
        for start in range(0, len(weights), 1 << 20):
            yield adapters_pb2.UploadRequest(weights=weights[start : start + (1 << 20)])

    assert adapters_pb2_grpc.AdaptersStub(channel).Upload(parts(), timeout=60).created
    assert list(generate(model=name, prompt=PROMPT))[-1].model == f"{name}@v1"


def test_open_inference_answers_like_completions(channel: grpc.Channel, client: httpx.Client, base: BaseModel) -> None:
    request = oip.ModelInferRequest(model_name=base.name)
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1]).contents.bytes_contents.append(PROMPT.encode())
    request.parameters["max_tokens"].int64_param = TOKENS
    request.parameters["temperature"].double_param = 0
    request.parameters["ignore_eos"].bool_param = True
    answer = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60)
    wanted = over_http(client, "/v1/completions", model=base.name, prompt=PROMPT)["choices"][0]["text"]
    assert answer.outputs[0].contents.bytes_contents[0].decode() == wanted


def test_the_prefix_cache_is_a_tenants_own(client: httpx.Client, base: BaseModel) -> None:
    """Without keys there is one tenant: it meets its own prompts again, and no salt of its choosing changes whose."""
    prompt = "The cache of one tenant is nobody else's. " * 40

    def cached(**body: Any) -> int:
        answer = over_http(client, "/v1/completions", model=base.name, prompt=prompt, **body)
        details = answer["usage"].get("prompt_tokens_details") or {}
        return int(details.get("cached_tokens") or 0)

    assert cached() == 0
    assert cached() > 0
    assert cached(cache_salt="public") == 0
