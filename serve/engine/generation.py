"""Text for faces that are not HTTP: by the handlers that answer the OpenAI routes, read back from their streams."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from pydantic import ValidationError
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import VLLMClientError, VLLMServerError

from polyad.adapters_store.errors import EngineUnavailable, InvalidInput, PolyadError, UnknownModel
from polyad.serve.engine.engine_errors import TRANSLATED, translate

_DATA = "data: "
_DONE = "[DONE]"
_NOT_FOUND = 404
_SERVER_ERROR = 500
# What vLLM's routes answer with 400.
_CLIENT_ERRORS = (VLLMClientError, ValueError, TypeError, OverflowError)


@dataclass(frozen=True, slots=True)
class Piece:
    """What came since the piece before; the last one has a reason to end, and the numbers of tokens."""

    id: str
    model: str
    text: str
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Generation:
    """One application's handlers. They answer for whom the context says, as they do behind HTTP."""

    def __init__(self, app: FastAPI) -> None:
        self._state = app.state

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[Piece, None]:
        """The answer to a body as /v1/chat/completions takes it, if it has `messages`, or else /v1/completions.

        Ends the work in the engine when it is closed. Raises PolyadError.
        """
        asked = {**body, "stream": True, "stream_options": {"include_usage": True}, "n": 1}
        try:
            async with aclosing(await self._answer(asked)) as events:
                async for piece in _pieces(events):
                    yield piece
        except TRANSLATED as error:
            raise translate(error) from error
        except VLLMServerError as error:
            raise EngineUnavailable(str(error)) from error
        except _CLIENT_ERRORS as error:
            raise InvalidInput("request", "values", f"values that the engine can take ({error})") from error

    async def _answer(self, body: dict[str, Any]) -> Any:
        chat = "messages" in body
        try:
            request = (ChatCompletionRequest if chat else CompletionRequest).model_validate(body)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_context=False)[0]
            place = ".".join(map(str, problem["loc"])) or "request"
            raise InvalidInput(place, problem.get("input"), problem["msg"]) from error
        if chat:
            answer = await self._state.openai_serving_chat.create_chat_completion(request)
        else:
            answer = await self._state.openai_serving_completion.create_completion(request)
        if isinstance(answer, ErrorResponse):
            raise _refusal(answer.error.model_dump())
        return answer


async def _pieces(events: AsyncIterator[str]) -> AsyncIterator[Piece]:
    last = Piece("", "", "")
    ended = False
    async for event in events:
        text = event.strip().removeprefix(_DATA)
        if not text or text == _DONE:
            continue
        chunk = json.loads(text)
        if "error" in chunk:
            raise _refusal(chunk["error"])
        for choice in chunk["choices"]:
            said = choice["delta"].get("content") if "delta" in choice else choice["text"]
            last = Piece(chunk["id"], chunk["model"], said or "", choice.get("finish_reason") or last.finish_reason)
            if last.text and not last.finish_reason:
                yield last
        if (usage := chunk.get("usage")) and not chunk["choices"]:
            ended = True
            yield Piece(
                last.id,
                last.model,
                last.text if last.finish_reason else "",
                last.finish_reason,
                usage["prompt_tokens"],
                usage["completion_tokens"],
            )
    if not ended:
        raise EngineUnavailable("the engine was lost while the request ran; it is being started again")


def _refusal(error: Mapping[str, Any]) -> PolyadError:
    status, message = int(error["code"]), error["message"]
    if status >= _SERVER_ERROR:
        return EngineUnavailable(message)
    if status == _NOT_FOUND:
        return UnknownModel(error.get("param") or "model", "", message)
    return InvalidInput(error.get("param") or "request", "values", f"values that the engine can take ({message})")
