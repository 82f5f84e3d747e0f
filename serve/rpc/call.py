"""What every call has in common: whom it is for, and how errors of ours become gRPC's."""

import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from polyad.adapters_store.errors import InvalidInput, LimitReached, NotFound, PolyadError, Unavailable
from polyad.serve.service import Access, Caller, current_caller

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

RETRY_AFTER_S = 5
DOMAIN = "polyad"


@asynccontextmanager
async def call(context: Context, access: Access) -> AsyncIterator[Caller]:
    """The caller of a call, whom the code within also finds in its context. Errors of ours end the call as theirs."""
    try:
        caller = access.caller(_authorization(context))
        token = current_caller.set(caller)
        try:
            yield caller
        finally:
            current_caller.reset(token)
    except PolyadError as error:
        await abort(context, error)
    except grpc.aio.AbortError:
        raise
    except Exception as error:
        # What it says may hold what is not the caller's to know.
        logger.exception("a call failed")
        await abort(context, PolyadError(f"the server failed ({type(error).__name__})"))


async def abort(context: Context, error: PolyadError) -> NoReturn:
    """End the call with the status of an error, and with details that programs read."""
    if not isinstance(error, Unavailable) and error.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("%s: %s", type(error).__name__, error)
    code = Code.Value(error.grpc_status)
    status = rpc_status.to_status(Status(code=code, message=str(error), details=[_packed(d) for d in _details(error)]))
    await context.abort(status.code, status.details, status.trailing_metadata)


def _details(error: PolyadError) -> list[Message]:
    reason = re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).upper()
    metadata = {"field": error.field} if error.field is not None else {}
    details: list[Message] = [ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)]
    if isinstance(error, InvalidInput | NotFound) and error.field is not None:
        violation = BadRequest.FieldViolation(field=error.field, description=str(error))
        details.append(BadRequest(field_violations=[violation]))
    if isinstance(error, LimitReached | Unavailable):
        retry = RetryInfo()
        retry.retry_delay.seconds = error.retry_after_s if isinstance(error, LimitReached) else RETRY_AFTER_S
        details.append(retry)
    return details


def _packed(detail: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(detail)
    return packed


def _authorization(context: Context) -> bytes:
    sent = [value for name, value in context.invocation_metadata() or () if name == "authorization"]
    if len(sent) != 1:
        return b""
    return sent[0].encode("latin-1", "replace") if isinstance(sent[0], str) else sent[0]
