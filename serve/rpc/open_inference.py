"""inference.GRPCInferenceService: KServe's Open Inference Protocol, for text in and text out."""

import struct
from contextlib import aclosing
from importlib.metadata import version
from typing import Any

from polyad.adapters_store.errors import InvalidInput, PolyadError
from polyad.proto import open_inference_pb2 as pb2
from polyad.proto import open_inference_pb2_grpc
from polyad.serve.compose import Resolver
from polyad.serve.rpc.call import Context, call
from polyad.serve.rpc.inference import Generator
from polyad.serve.service import Services

INPUT = "text_input"
OUTPUT = "text_output"

_BYTES = "BYTES"
_SHAPES = ([1], [1, 1])
_LENGTH = struct.Struct("<I")
# Of each parameter, the type that a JSON body would have.
_PARAMETERS: dict[str, type] = {
    "max_tokens": int,
    "min_tokens": int,
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "seed": int,
    "frequency_penalty": float,
    "presence_penalty": float,
    "repetition_penalty": float,
    "stop": str,
    "ignore_eos": bool,
    "priority": int,
}


class OpenInferenceServicer(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, services: Services, generator: Generator, resolver: Resolver) -> None:
        self._services = services
        self._generator = generator
        self._resolver = resolver

    async def ServerLive(self, request: pb2.ServerLiveRequest, context: Context) -> pb2.ServerLiveResponse:
        return pb2.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb2.ServerReadyRequest, context: Context) -> pb2.ServerReadyResponse:
        return pb2.ServerReadyResponse(ready=self._services.health.readiness().ready)

    async def ServerMetadata(self, request: pb2.ServerMetadataRequest, context: Context) -> pb2.ServerMetadataResponse:
        async with call(context, self._services.access):
            return pb2.ServerMetadataResponse(name="polyad", version=version("polyad"))

    async def ModelReady(self, request: pb2.ModelReadyRequest, context: Context) -> pb2.ModelReadyResponse:
        async with call(context, self._services.access) as caller:
            try:
                self._check(caller.tenant, _model(request.name, request.version))
            except PolyadError:
                return pb2.ModelReadyResponse(ready=False)
            return pb2.ModelReadyResponse(ready=self._services.health.readiness().ready)

    async def ModelMetadata(self, request: pb2.ModelMetadataRequest, context: Context) -> pb2.ModelMetadataResponse:
        async with call(context, self._services.access) as caller:
            self._check(caller.tenant, _model(request.name, request.version))
        tensor = pb2.ModelMetadataResponse.TensorMetadata
        return pb2.ModelMetadataResponse(
            name=request.name,
            versions=[request.version] if request.version else [],
            platform="polyad",
            inputs=[tensor(name=INPUT, datatype=_BYTES, shape=[1])],
            outputs=[tensor(name=OUTPUT, datatype=_BYTES, shape=[1])],
        )

    async def ModelInfer(self, request: pb2.ModelInferRequest, context: Context) -> pb2.ModelInferResponse:
        async with call(context, self._services.access) as caller:
            body = _body(request)
            text, model, response = "", "", ""
            async with aclosing(self._generator.pieces(caller, body)) as pieces:
                async for piece in pieces:
                    text, model, response = text + piece.text, piece.model, piece.id
        return _answer(request, text.encode(), model, response)

    def _check(self, tenant: str, model: str) -> None:
        if not self._resolver.is_base(model):
            self._resolver.of(tenant).plan(model)


def _model(name: str, version: str) -> str:
    if not name:
        raise InvalidInput("model_name", "", "the base model's name, an adapter or a composition")
    return f"{name}@{version}" if version else name


def _body(request: pb2.ModelInferRequest) -> dict[str, Any]:
    for output in request.outputs:
        if output.name != OUTPUT:
            raise InvalidInput("outputs.name", output.name, OUTPUT)
    parameters = {name: _parameter(name, value) for name, value in request.parameters.items()}
    return {
        "model": _model(request.model_name, request.model_version),
        "prompt": _text(request),
        **parameters,
    }


def _text(request: pb2.ModelInferRequest) -> str:
    if len(request.inputs) != 1 or request.inputs[0].name != INPUT:
        came = ", ".join(tensor.name for tensor in request.inputs)
        raise InvalidInput("inputs", came, f"one tensor, {INPUT}")
    tensor = request.inputs[0]
    if tensor.datatype != _BYTES or list(tensor.shape) not in _SHAPES:
        raise InvalidInput(f"inputs.{INPUT}", f"{tensor.datatype} {list(tensor.shape)}", f"{_BYTES} [1]")
    try:
        return _content(request, tensor).decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"inputs.{INPUT}", "bytes", f"UTF-8 text ({error.reason} at byte {error.start})") from error


def _content(request: pb2.ModelInferRequest, tensor: pb2.ModelInferRequest.InferInputTensor) -> bytes:
    raw, contents = request.raw_input_contents, tensor.contents.bytes_contents
    if len(raw) + len(contents) != 1:
        raise InvalidInput(f"inputs.{INPUT}", f"{len(raw) + len(contents)} elements", "one element")
    if contents:
        return contents[0]
    size = len(raw[0]) - _LENGTH.size
    if size < 0 or _LENGTH.unpack_from(raw[0])[0] != size:
        raise InvalidInput("raw_input_contents", f"{len(raw[0])} bytes", "a length of 4 bytes, and so many bytes")
    return raw[0][_LENGTH.size :]


def _parameter(name: str, parameter: pb2.InferParameter) -> object:
    kind, chosen = _PARAMETERS.get(name), parameter.WhichOneof("parameter_choice")
    if kind is None or chosen is None:
        raise InvalidInput(f"parameters.{name}", chosen, f"a value of one of {', '.join(_PARAMETERS)}")
    value = getattr(parameter, chosen)
    allowed = (int, float) if kind is float else (kind,)
    if not isinstance(value, allowed) or (kind is not bool and isinstance(value, bool)):
        raise InvalidInput(f"parameters.{name}", value, kind.__name__)
    return kind(value)


def _answer(request: pb2.ModelInferRequest, text: bytes, model: str, response: str) -> pb2.ModelInferResponse:
    answer = pb2.ModelInferResponse(model_name=request.model_name, model_version=request.model_version, id=request.id)
    answer.parameters["model"].string_param = model
    # What feedback is given on; `id` is the client's own.
    answer.parameters["response"].string_param = response
    output = answer.outputs.add(name=OUTPUT, datatype=_BYTES, shape=[1])
    # In the form in which the client asked.
    if request.raw_input_contents:
        answer.raw_output_contents.append(_LENGTH.pack(len(text)) + text)
    else:
        output.contents.bytes_contents.append(text)
    return answer
