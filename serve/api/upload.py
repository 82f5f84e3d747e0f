"""An adapter uploaded as multipart/form-data: the files that PEFT writes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.pace import Pace
from polyad.adapters_store.source import AdapterFiles
from polyad.serve.service.scratch_folder import scratch_folder

_CHUNK = 1024 * 1024
_MAX_CONFIG = 1024 * 1024

UPLOAD_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["name", "config", "weights"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "description": "Name of the adapter.", "example": "support"},
        "config": {"type": "string", "format": "binary", "description": "The adapter's adapter_config.json."},
        "weights": {"type": "string", "format": "binary", "description": "The adapter's adapter_model.safetensors."},
        "initial": {
            "type": "string",
            "format": "binary",
            "description": "Its adapter_model.safetensors from before training, for PiSSA, OLoRA and CorDA.",
        },
        "alias": {"type": "string", "description": "Alias to point at the new version.", "example": "canary"},
    },
}
_FIELDS = frozenset(UPLOAD_SCHEMA["properties"])


@dataclass(frozen=True, slots=True)
class Upload:
    """What one request brought."""

    name: str
    files: AdapterFiles
    aliases: tuple[str, ...]

    @classmethod
    @asynccontextmanager
    async def received(cls, request: Request, pace: Pace, scratch: Path) -> AsyncIterator["Upload"]:
        """Receive the form; its files live in `scratch` until the context ends. Raises InvalidInput."""
        try:
            whole = Request(request.scope, _in_large_pieces(request.receive, pace))
            form = await whole.form(max_files=3, max_fields=2, max_part_size=4096)
        except HTTPException as error:
            raise InvalidInput("body", error.detail, "multipart/form-data with the documented fields") from error
        try:
            _check_fields(form)
            async with scratch_folder(scratch) as folder:
                weights = await _stored(form, "weights", folder)
                initial = await _stored(form, "initial", folder) if "initial" in form else None
                config = await _file(form, "config").read(_MAX_CONFIG + 1)
                aliases = (_text(form, "alias"),) if "alias" in form else ()
                yield cls(_text(form, "name"), AdapterFiles(config, weights, "upload", initial), aliases)
        finally:
            await form.close()


def _in_large_pieces(receive: Receive, pace: Pace) -> Receive:
    """The body in pieces of _CHUNK bytes or a little more: each costs the form's parser a visit to another thread."""

    async def receive_piece() -> Message:
        await pace.pause()
        message = await receive()
        pieces = [message.get("body", b"")]
        size = len(pieces[0])
        while message.get("more_body") and size < _CHUNK:
            message = await receive()
            if message["type"] != "http.request":
                return message
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
        return message if len(pieces) == 1 else {**message, "body": b"".join(pieces)}

    return receive_piece


def _check_fields(form: FormData) -> None:
    for field, _ in form.multi_items():
        if field not in _FIELDS:
            raise InvalidInput("body", field, f"the fields {', '.join(sorted(_FIELDS))}")
        if len(form.getlist(field)) > 1:
            raise InvalidInput(field, f"{len(form.getlist(field))} values", "one value")


def _text(form: FormData, field: str) -> str:
    value = form.get(field)
    if not isinstance(value, str):
        raise InvalidInput(field, "a file" if value is not None else None, "a text field")
    return value


def _file(form: FormData, field: str) -> UploadFile:
    value = form.get(field)
    if not isinstance(value, UploadFile):
        raise InvalidInput(field, value, "a file")
    return value


async def _stored(form: FormData, field: str, folder: Path) -> Path:
    path = folder / field
    await run_in_threadpool(_copy, _file(form, field), path)
    return path


def _copy(upload: UploadFile, path: Path) -> None:
    upload.file.seek(0)
    with path.open("wb") as target:
        while chunk := upload.file.read(_CHUNK):
            target.write(chunk)
