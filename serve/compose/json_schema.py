"""The JSON form as JSON Schema, for the OpenAPI document: by the names that its components have there."""

from typing import Any

from polyad.adapters_store.names import NAME_RULE, PRODUCTION, VERSION_RULE
from polyad.serve.compose.bounds import MAX_LENGTH, MAX_OPTIONS, MAX_TERMS, MAX_WEIGHT

COMPOSITION = "Composition"
_PART = "CompositionPart"

_NAME = {"type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,62}$", "description": f"A name: {NAME_RULE}."}
_AT = {
    "type": "string",
    "pattern": "^([a-z0-9][a-z0-9._-]{0,62}|[0-9a-f]{64})$",
    "description": f"Version: {VERSION_RULE}.",
    "default": PRODUCTION,
}
_WEIGHT = {"type": "number", "minimum": -MAX_WEIGHT, "maximum": MAX_WEIGHT, "default": 1}
_OPTIONS = {
    "type": "object",
    "maxProperties": MAX_OPTIONS,
    "propertyNames": {"pattern": _NAME["pattern"]},
    "additionalProperties": {"type": ["number", "boolean", "string"]},
    "description": "Options of the method.",
}


def reference_to(name: str) -> dict[str, str]:
    """How a schema refers to a component."""
    return {"$ref": f"#/components/schemas/{name}"}


def _object(description: str, required: list[str], example: dict[str, Any], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "required": required,
        "properties": properties,
        "additionalProperties": False,
        "example": example,
    }


def _list(name: str, least: int) -> dict[str, Any]:
    return {"type": "array", "items": reference_to(name), "minItems": least, "maxItems": MAX_TERMS}


_SUPPORT = {"adapter": "support", "at": "canary", "weight": 0.7}
_TONE = {"adapter": "tone", "weight": 0.3}
_PARTS = ["CompositionAdapter", "CompositionBlend", "CompositionMerge"]

TEXT_OR_FORM: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "maxLength": MAX_LENGTH, "description": "As `model` writes it."},
        reference_to(COMPOSITION),
    ]
}

SCHEMAS: dict[str, Any] = {
    COMPOSITION: {
        "title": COMPOSITION,
        "description": "A composition, as `model` writes it in a string.",
        "oneOf": [reference_to(name) for name in [*_PARTS, "CompositionFusion"]],
        "example": {"blend": [_SUPPORT, _TONE]},
    },
    _PART: {
        "title": _PART,
        "description": "What can be part of a blend or a merge.",
        "oneOf": [reference_to(name) for name in _PARTS],
        "example": _SUPPORT,
    },
    "CompositionAdapter": _object(
        "An adapter at a version, or a saved composition.", ["adapter"], _SUPPORT, adapter=_NAME, at=_AT, weight=_WEIGHT
    ),
    "CompositionBlend": _object(
        "A weighted sum.", ["blend"], {"blend": [_SUPPORT, _TONE]}, blend=_list(_PART, 0), weight=_WEIGHT
    ),
    "CompositionMerge": _object(
        "A merge by a method.",
        ["merge", "of"],
        {"merge": "ties", "of": [_SUPPORT, _TONE], "options": {"density": 0.2}},
        merge=_NAME,
        of=_list(_PART, 1),
        options=_OPTIONS,
        weight=_WEIGHT,
    ),
    "CompositionFusion": _object(
        "A fusion of logits.",
        ["fuse"],
        {"fuse": [_SUPPORT, _TONE], "options": {"mode": "static"}},
        fuse=_list(COMPOSITION, 1),
        options=_OPTIONS,
    ),
}
