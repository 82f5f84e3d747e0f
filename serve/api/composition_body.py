"""Compositions as JSON in requests for inference: handlers see them as the text that `model` may be."""

from polyad.serve.service import CompositionService


def with_model_text(body: object, compositions: CompositionService) -> object:
    """The body with the canonical text in `model`, if its `model` or its `composition` holds the JSON form.

    Any other body is returned as it is. Raises InvalidInput, which names the place.
    """
    if not isinstance(body, dict):
        return body
    if "composition" in body:
        rest = {key: value for key, value in body.items() if key != "composition"}
        if body["composition"] is None:
            return rest
        return rest | {"model": compositions.model_text(body.get("model"), body["composition"])}
    if isinstance(body.get("model"), dict):
        return {**body, "model": str(compositions.read(body["model"], "model"))}
    return body
