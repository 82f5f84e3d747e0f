"""What polyad's own routes have in common: input that does not fit is refused in one form, wherever it came from."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from polyad.adapters_store.errors import InvalidInput

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Route(APIRoute):
    """A route whose body, query and path errors are InvalidInput, which names the first field at fault."""

    def get_route_handler(self) -> Handler:
        handler = super().get_route_handler()

        async def checked(request: Request) -> Response:
            try:
                return await handler(request)
            except RequestValidationError as error:
                problem = error.errors()[0]
                raise invalid_input(problem["loc"][1:], problem) from error

        return checked


def invalid_input(place: tuple[str | int, ...], problem: Any) -> InvalidInput:
    """One of pydantic's errors, as ours."""
    missing = problem["type"] == "missing"
    value = None if missing else problem["input"]
    allowed = "a value, it is required" if missing else problem["msg"].removeprefix("Input should be ")
    return InvalidInput(".".join(map(str, place)) or "body", value, allowed)
