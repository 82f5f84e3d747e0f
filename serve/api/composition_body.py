"""Compositions as JSON in requests for inference: handlers see them as the text that `model` may be."""

from polyad.adapters_store.errors import InvalidInput
from polyad.serve.api.merged_adapters import KEY, expression_of
from polyad.serve.service import CompositionService


def with_model_text(body: object, compositions: CompositionService) -> object:
    """The body with the canonical text in `model`, if its `model` or its `composition` holds the JSON form, or if it
    has LoRAX's `merged_adapters`.

    Any other body is returned as it is. Raises InvalidInput, which names the place.
    """
    if not isinstance(body, dict):
        return body
    if "composition" in body:
        if KEY in body:
            raise InvalidInput(KEY, "beside composition", "one of the two")
        rest = {key: value for key, value in body.items() if key != "composition"}
        if body["composition"] is None:
            return rest
        return rest | {"model": compositions.model_text(body.get("model"), body["composition"])}
    if KEY in body:
        rest = {key: value for key, value in body.items() if key != KEY}
        return rest | {"model": compositions.model_text(body.get("model"), expression_of(body[KEY]))}
    if isinstance(body.get("model"), dict):
        return {**body, "model": str(compositions.read(body["model"], "model"))}
    return body
