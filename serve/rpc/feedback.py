"""polyad.v1.Feedback: verdicts on responses, and forgetting the end users that they are of."""

from typing import Any

from polyad.adapters_store.errors import InvalidInput
from polyad.proto import feedback_pb2, feedback_pb2_grpc
from polyad.serve.rpc.call import Context, call
from polyad.serve.service import Services

_THUMBS = {feedback_pb2.UP: "up", feedback_pb2.DOWN: "down"}
_MAX_USER = 256


class FeedbackServicer(feedback_pb2_grpc.FeedbackServicer):
    def __init__(self, services: Services) -> None:
        self._access = services.access
        self._learning = services.learning

    async def Give(
        self, request: feedback_pb2.GiveFeedbackRequest, context: Context
    ) -> feedback_pb2.GiveFeedbackResponse:
        async with call(context, self._access) as caller:
            feedback, interaction, new = await self._learning.give(caller.tenant, _fields(request))
            return feedback_pb2.GiveFeedbackResponse(
                id=feedback.id,
                response=feedback.response,
                version=f"{interaction.adapter}@v{interaction.version}",
                given_before=not new,
            )

    async def ForgetUser(
        self, request: feedback_pb2.ForgetUserRequest, context: Context
    ) -> feedback_pb2.ForgetUserResponse:
        async with call(context, self._access) as caller:
            caller.check_admin()
            if not 0 < len(request.user) <= _MAX_USER:
                raise InvalidInput("user", request.user, f"1 to {_MAX_USER} characters")
            return feedback_pb2.ForgetUserResponse(**await self._learning.forget(caller.tenant, request.user))


def _fields(request: feedback_pb2.GiveFeedbackRequest) -> dict[str, Any]:
    """What was given, by the names that the service knows; what is empty was not given."""
    fields: dict[str, Any] = {field.name: getattr(request, field.name) for field, _ in request.ListFields()}
    if request.thumb:
        if request.thumb not in _THUMBS:
            raise InvalidInput("thumb", request.thumb, ", ".join(feedback_pb2.Thumb.keys()[1:]))
        fields["thumb"] = _THUMBS[request.thumb]
    return {**fields, "response": request.response, "labels": tuple(request.labels)}
