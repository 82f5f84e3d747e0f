"""vLLM's engine errors as ours, and ours as vLLM's."""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

import msgspec
from vllm.exceptions import GracefulHTTPError
from vllm.outputs import RequestOutput
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from polyad.adapters_store.errors import EngineUnavailable, InvalidInput, PolyadError

# What vLLM's handlers let through when a request's values are beyond what its code expects.
_INPUT_ERRORS = (ArithmeticError, LookupError, RecursionError, TypeError, ValueError, msgspec.MsgspecError)


class Refused(GracefulHTTPError):
    """An error of ours on its way through vLLM's handlers, which keep its status and message in answers of their own
    making (streams, /v1/messages); elsewhere it is translated back."""

    def __init__(self, error: PolyadError) -> None:
        super().__init__(str(error), HTTPStatus(error.http_status))


TRANSLATED: tuple[type[Exception], ...] = (
    Refused,
    EngineDeadError,
    EngineGenerateError,
    ArithmeticError,
    RecursionError,
)


@contextmanager
def refusing() -> Iterator[None]:
    """Let errors of ours leave as Refused."""
    try:
        yield
    except PolyadError as error:
        raise Refused(error) from error


def translate(error: Exception) -> PolyadError:
    """The error of ours behind vLLM's; EngineUnavailable if it says that the engine lost the request."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, PolyadError):
            return cause
        if isinstance(cause, _INPUT_ERRORS):
            return InvalidInput("body", f"{type(cause).__name__}: {cause}", "values that the engine can take")
        cause = cause.__cause__
    return EngineUnavailable("the engine was lost while the request ran; it is being started again")


def refuse_failed(output: RequestOutput) -> None:
    """Raise InvalidInput if the engine gave the request up, which it does only for what the request asked."""
    if any(completion.finish_reason == "error" for completion in output.outputs):
        raise InvalidInput(
            "structured_outputs",
            "a grammar that could not be compiled, or that the other constraints contradict",
            "a grammar that the engine supports and that can always go on",
        )
