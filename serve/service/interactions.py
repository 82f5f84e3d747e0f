"""From a request and its answers to what is kept of them, by whichever face they came."""

from collections.abc import Mapping, Sequence
from typing import Any

from polyad.adapters_store.feedback import Answer, Message

MAX_TEXT = 256 * 1024

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "seed", "max_tokens", "max_completion_tokens", "n")


def interaction_fields(asked: Mapping[str, Any], adapter: str, answers: Sequence[Answer]) -> dict[str, Any] | None:
    """What is kept of a request as OpenAI's routes take it, to an adapter; None if it is not to be kept.

    Raises KeyError, TypeError and AttributeError for other formats.
    """
    if not answers or sum(len(answer.text) for answer in answers) > MAX_TEXT:
        return None
    prompt = _prompt(asked)
    if prompt is None or asked.get("store") is False or not _names(asked["model"], adapter):
        return None
    sampling = {key: asked[key] for key in _SAMPLING if isinstance(asked.get(key), int | float)}
    return {"prompt": prompt, "answers": tuple(answers), "user": _user(asked), "sampling": sampling}


def _names(model: str, adapter: str) -> bool:
    """Whether it is the adapter's own name: `public/NAME`, or a saved composition, may answer with the same label."""
    return model.rpartition(":")[2].partition("@")[0] == adapter


def _prompt(asked: Mapping[str, Any]) -> tuple[Message, ...] | str | None:
    if "messages" not in asked:
        prompt = asked["prompt"]
        return prompt if isinstance(prompt, str) and len(prompt) <= MAX_TEXT else None
    turns = [Message(role=one["role"], content=_text(one["content"])) for one in asked["messages"]]
    return tuple(turns) if sum(len(turn.content) for turn in turns) <= MAX_TEXT else None


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content)


def _user(asked: Mapping[str, Any]) -> str | None:
    user = asked.get("user") or asked.get("safety_identifier")
    return user[:256] if isinstance(user, str) else None
