"""Bytes that are no message: refused like any other bad input, where grpc would say that the server failed."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from polyad.adapters_store.errors import InvalidInput, PolyadError
from polyad.serve.rpc.call import abort


class Parsing(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Answers INVALID_ARGUMENT for what cannot be read, in the methods of our own services."""

    def __init__(self, packages: tuple[str, ...]) -> None:
        self._prefixes = tuple(f"/{package}." for package in packages)

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(self._prefixes):
            return handler
        read = {"request_deserializer": _reader(handler.request_deserializer)}
        if handler.stream_unary is not None:
            return handler._replace(stream_unary=_of_stream(handler.stream_unary), **read)
        if handler.unary_stream is not None:
            return handler._replace(unary_stream=_streamed(handler.unary_stream), **read)
        return handler._replace(unary_unary=_single(handler.unary_unary), **read)


def _reader(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def lenient(content: bytes) -> Any:
        try:
            return read(content)
        except DecodeError as error:
            return InvalidInput("message", content[:40], f"a message of the method ({error})")

    return lenient


def _single(answer: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    async def checked(request: Any, context: Any) -> Any:
        if isinstance(request, PolyadError):
            await abort(context, request)
        return await answer(request, context)

    return checked


def _streamed(answer: Callable[[Any, Any], AsyncIterator[Any]]) -> Callable[[Any, Any], AsyncIterator[Any]]:
    async def checked(request: Any, context: Any) -> AsyncIterator[Any]:
        if isinstance(request, PolyadError):
            await abort(context, request)
        async for response in answer(request, context):
            yield response

    return checked


def _of_stream(answer: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    async def checked(requests: AsyncIterator[Any], context: Any) -> Any:
        return await answer(_messages(requests), context)

    return checked


async def _messages(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        if isinstance(request, PolyadError):
            raise request
        yield request
