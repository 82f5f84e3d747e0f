"""polyad.v1.Inference: text, as a stream."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from polyad.adapters_store.errors import EngineUnavailable, InvalidInput
from polyad.adapters_store.feedback import Answer
from polyad.proto import inference_pb2, inference_pb2_grpc
from polyad.serve.engine.generation import Generation, Piece
from polyad.serve.rpc.call import Context, call
from polyad.serve.service import Caller, Services

_ROLES = ("system", "user", "assistant")
# How answers end that one can learn from.
_KEPT = ("stop", "length")


class Generator:
    """Text for the calls of one server, within what its tenants may use."""

    def __init__(self, services: Services, generation: Callable[[], Generation | None]) -> None:
        self._services = services
        self._generation = generation

    async def pieces(self, caller: Caller, body: dict[str, Any]) -> AsyncGenerator[Piece, None]:
        """The answer to a body as the OpenAI routes take it; kept before its last piece comes. Raises PolyadError."""
        generation = self._generation()
        if generation is None or not self._services.health.readiness().ready:
            raise EngineUnavailable("the engine is starting or restarting")
        learning, texts = self._services.learning, []
        body = {**body, "model": learning.route(caller.tenant, body["model"])}
        with self._services.limiter.running(caller.tenant):
            await self._services.merges.of(caller.tenant).prepare(body["model"])
            async with aclosing(generation.stream(body)) as pieces:
                async for piece in pieces:
                    texts.append(piece.text)
                    if piece.finish_reason in _KEPT:
                        answer = Answer(text="".join(texts), ended=piece.finish_reason == "stop")
                        await learning.keep(caller.tenant, piece.model, piece.id, body, [answer])
                    yield piece


class InferenceServicer(inference_pb2_grpc.InferenceServicer):
    def __init__(self, services: Services, generator: Generator) -> None:
        self._access = services.access
        self._generator = generator

    async def Generate(
        self, request: inference_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[inference_pb2.GenerateResponse]:
        async with (
            call(context, self._access) as caller,
            aclosing(self._generator.pieces(caller, body_of(request))) as pieces,
        ):
            async for piece in pieces:
                yield _response(piece)


def body_of(request: inference_pb2.GenerateRequest) -> dict[str, Any]:
    """The request as the OpenAI routes take it. Raises InvalidInput."""
    body: dict[str, Any] = {"model": request.model, "priority": request.priority}
    kind = request.WhichOneof("input")
    if not request.model:
        # An absent model would be the base model's.
        raise InvalidInput("model", "", "the base model's name, an adapter or a composition")
    if kind is None:
        raise InvalidInput("input", None, "a prompt, or a chat")
    if kind == "prompt":
        body["prompt"] = request.prompt
    else:
        body["messages"] = [_message(index, message) for index, message in enumerate(request.chat.messages)]
        if not body["messages"]:
            raise InvalidInput("chat.messages", "no message", "one message at least")
    if request.user:
        body["user"] = request.user
    if request.HasField("store"):
        body["store"] = request.store
    sampling = request.sampling
    body |= {field.name: getattr(sampling, field.name) for field, _ in sampling.ListFields() if field.name != "stop"}
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    return body


def _message(index: int, message: inference_pb2.Message) -> dict[str, str]:
    if message.role not in _ROLES:
        raise InvalidInput(f"chat.messages.{index}.role", message.role, ", ".join(_ROLES))
    return {"role": message.role, "content": message.content}


def _response(piece: Piece) -> inference_pb2.GenerateResponse:
    response = inference_pb2.GenerateResponse(
        id=piece.id, model=piece.model, text=piece.text, finish_reason=piece.finish_reason
    )
    if piece.finish_reason:
        response.usage.prompt_tokens = piece.prompt_tokens
        response.usage.completion_tokens = piece.completion_tokens
    return response
