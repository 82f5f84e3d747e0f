"""/v1/feedback: verdicts on responses, and forgetting the end users that they are of."""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from polyad.serve.api.access import Admin, Asking
from polyad.serve.api.errors import documented_errors
from polyad.serve.api.learning_schemas import FeedbackOut, Forgotten, GiveFeedback
from polyad.serve.api.route import Route
from polyad.serve.service import LearningService

User = Annotated[str, Path(min_length=1, max_length=256, description="The end user, as requests named him.")]


def feedback_router(service: LearningService) -> APIRouter:
    """The routes for the feedback of all tenants; each sees its own."""
    errors = documented_errors(400, 401, 403, 404, 409, 410, 413, 503)
    router = APIRouter(prefix="/v1/feedback", tags=["feedback"], responses=errors, route_class=Route)

    @router.post(
        "",
        summary="Give feedback on a response",
        description="The response must be of an adapter that learns, as it is and not within a blend, and still kept.",
        status_code=201,
        responses={200: {"model": FeedbackOut, "description": "This very feedback was given before."}},
    )
    async def give(body: GiveFeedback, caller: Asking, response: Response) -> FeedbackOut:
        fields = body.model_dump() | {"labels": tuple(body.labels)}
        feedback, interaction, new = await service.give(caller.tenant, fields)
        response.status_code = 201 if new else 200
        return FeedbackOut.of(feedback, interaction)

    @router.delete("/users/{user}", summary="Delete what is kept of an end user", dependencies=[Admin])
    async def forget(user: User, caller: Asking) -> Forgotten:
        return Forgotten(user=user, **await service.forget(caller.tenant, user))

    return router
