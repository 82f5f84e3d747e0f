"""Secrets as Helm sends them when it stores its releases: Kubernetes' protobuf, read as far as a Secret goes."""

import base64
from collections.abc import Iterator
from typing import Any

MAGIC = b"k8s\0"
_VARINT, _BYTES = 0, 2


def secret(content: bytes) -> dict[str, Any]:
    """The JSON form of an encoded Secret. Numbers of fields: k8s.io/api/core/v1 and apimachinery's generated.proto."""
    unknown = dict(_fields(content.removeprefix(MAGIC)))
    body = list(_fields(unknown[2]))
    meta = list(_fields(dict(body)[1]))
    return {
        "metadata": {"name": dict(meta)[1].decode(), "labels": {k: v.decode() for k, v in _map(meta, 11)}},
        "data": {key: base64.b64encode(value).decode() for key, value in _map(body, 2)},
        "type": dict(body).get(3, b"Opaque").decode(),
    }


def _map(message: list[tuple[int, bytes]], number: int) -> Iterator[tuple[str, bytes]]:
    for entry in (value for found, value in message if found == number):
        pair = dict(_fields(entry))
        yield pair.get(1, b"").decode(), pair.get(2, b"")


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields that are bytes; numbers are passed over."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        size, place = _varint(message, place)
        if tag & 7 == _BYTES:
            yield tag >> 3, message[place : place + size]
            place += size
        elif tag & 7 != _VARINT:
            raise ValueError(f"wire type {tag & 7}")


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, place
