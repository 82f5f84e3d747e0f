"""The share of requests that a new version answers before it is `production`."""

from polyad.serve.service import LearningService, current_caller


def with_canary(body: object, learning: LearningService) -> object:
    """The body with `name@canary` for `name` in `model`, if this request is one of the canary's share."""
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        return body
    model = learning.route(current_caller.get().tenant, body["model"])
    return body if model == body["model"] else {**body, "model": model}
