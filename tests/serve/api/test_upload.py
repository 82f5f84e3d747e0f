"""Uploads, well formed and not: what is refused, by which field, and that nothing is left behind."""

import json
import struct
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load, save

from tests.serve.api.conftest import Face, refused

Parts = list[tuple[str, Any]]


def form(face: Face, *parts: tuple[str, Any], **headers: str) -> httpx.Response:
    """A form of these parts in this order: bytes are sent as a file, text as text."""
    files = [(field, ("file", value) if isinstance(value, bytes) else (None, value)) for field, value in parts]
    return face.client.post("/v1/adapters", files=files, headers=headers)


def whole(face: Face, name: str) -> Parts:
    return [("name", name), *face.files().items()]


def nothing_is_left(face: Face, name: str) -> None:
    refused(face.client.get(f"/v1/adapters/{name}"), 404, "UnknownAdapter", "adapter")
    assert list((face.settings.state_dir / "scratch").iterdir()) == []


def test_order_of_the_fields_does_not_matter(face: Face, name: str) -> None:
    parts = [("alias", "canary"), *reversed(whole(face, name))]
    assert form(face, *parts).json()["aliases"] == ["canary", "production"]


@pytest.mark.parametrize("missing", ["name", "config", "weights"])
def test_missing_field(face: Face, name: str, missing: str) -> None:
    parts = [part for part in whole(face, name) if part[0] != missing]
    refused(form(face, *parts), 400, "InvalidInput", missing)
    nothing_is_left(face, name)


@pytest.mark.parametrize("doubled", ["name", "config", "weights"])
def test_field_that_comes_twice(face: Face, name: str, doubled: str) -> None:
    parts = whole(face, name)
    answer = form(face, *parts, *(part for part in parts if part[0] == doubled))
    refused(answer, 400, "InvalidInput", doubled)
    nothing_is_left(face, name)


@pytest.mark.parametrize("unknown", ["names", "", "Name", "name\u200b", "a" * 5000])
def test_unknown_field(face: Face, name: str, unknown: str) -> None:
    refused(form(face, *whole(face, name), (unknown, "x")), 400, "InvalidInput", "body")
    nothing_is_left(face, name)


@pytest.mark.parametrize("field", ["name", "alias"])
def test_file_where_text_is_due(face: Face, name: str, field: str) -> None:
    parts: Parts = [("config", b"{}"), (field, b"text"), *([("name", name)] if field == "alias" else [])]
    refused(form(face, *parts), 400, "InvalidInput", "weights")
    config, weights = face.files().values()
    text: Parts = [("config", config), ("weights", weights)]
    assert form(face, *text, ("name", name)).status_code == 201
    # Four files are too many whatever they are called.
    refused(form(face, *text, ("initial", b"file"), (field, b"text")), 400, "InvalidInput", "body")


def test_initial_weights_reach_admission(face: Face, name: str) -> None:
    files = face.files()
    residual = changed(files, init_lora_weights="pissa")
    parts: Parts = [("name", name), *residual.items()]
    assert "`initial`" in refused(form(face, *parts), 400, "InvalidAdapter", "adapter_config.init_lora_weights")
    nothing_is_left(face, name)
    version = form(face, *parts, ("initial", files["weights"])).json()
    assert (version["kind"], version["rank"]) == ("pissa", 8)
    plain = [("name", name), *files.items(), ("initial", files["weights"])]
    refused(form(face, *plain), 400, "InvalidAdapter", "initial")


@pytest.mark.parametrize("field", ["config", "weights"])
def test_text_where_a_file_is_due(face: Face, name: str, field: str) -> None:
    parts: Parts = [(key, "text" if key == field else value) for key, value in whole(face, name)]
    assert "'text'" in refused(form(face, *parts), 400, "InvalidInput", field)
    nothing_is_left(face, name)


@pytest.mark.parametrize("field", ["name", "alias", "config"])
def test_text_that_is_huge(face: Face, name: str, field: str) -> None:
    parts = [part for part in whole(face, name) if part[0] != field]
    refused(form(face, *parts, (field, "a" * 100_000)), 400, "InvalidInput", "body")
    nothing_is_left(face, name)


@pytest.mark.parametrize(
    ("content_type", "body", "param"),
    [
        ("multipart/form-data", b"", "body"),
        ("multipart/form-data", b"--x--", "body"),
        ("multipart/form-data; boundary=", b"--x--", "body"),
        ("multipart/form-data; boundary=x", b"", "config"),
        ("multipart/form-data; boundary=x", b"no boundary", "body"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\n--x--", "body"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--", "body"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nabc', "config"),
        ("multipart/form-data; boundary=x; charset=undefined", b"--x--", "config"),
        ("multipart/form-data; boundary=" + "x" * 10_000, b"--x--", "body"),
        ("multipart/mixed; boundary=x", b"--x--", "content-type"),
        ("application/x-www-form-urlencoded", b"name=a", "content-type"),
        ("application/octet-stream", b"\x80", "content-type"),
        ("text/plain", b"name", "content-type"),
        ("", b"x", "content-type"),
    ],
)
def test_broken_form(face: Face, content_type: str, body: bytes, param: str) -> None:
    answer = face.client.post("/v1/adapters", content=body, headers={"content-type": content_type})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] in (param, "weights")
    assert list((face.settings.state_dir / "scratch").iterdir()) == []


@pytest.mark.parametrize("codec", ["idna", "punycode", "rot13", "hex", "utf-16", "no-such"])
def test_charset_of_the_form_is_not_trusted(face: Face, name: str, codec: str) -> None:
    parts = b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nxn--\xff\xfe-a\r\n--x--'
    headers = {"content-type": f"multipart/form-data; boundary=x; charset={codec}"}
    answer = face.client.post("/v1/adapters", content=parts, headers=headers)
    assert answer.status_code == 400, answer.text


def changed(files: dict[str, bytes], **config: Any) -> dict[str, bytes]:
    return {**files, "config": json.dumps(json.loads(files["config"]) | config).encode()}


def with_tensors(files: dict[str, bytes], change: Any) -> dict[str, bytes]:
    tensors = load(files["weights"])
    return {**files, "weights": save({name: change(tensor) for name, tensor in tensors.items()})}


def spoiled(tensor: torch.Tensor) -> torch.Tensor:
    changed = tensor.clone()
    changed.view(-1)[0] = float("nan")
    return changed


SPOIL: dict[str, Any] = {
    "truncated": lambda files: {**files, "weights": files["weights"][:-1]},
    "longer than it says": lambda files: {**files, "weights": files["weights"] + b"\0"},
    "no safetensors": lambda files: {**files, "weights": b"not safetensors, nor anything else"},
    "empty": lambda files: {**files, "weights": b""},
    "pickle": lambda files: {**files, "weights": b"\x80\x04\x95" + b"\0" * 100},
    "zip": lambda files: {**files, "weights": b"PK\x03\x04" + b"\0" * 100},
    "lying header": lambda files: {**files, "weights": struct.pack("<Q", 2**63) + files["weights"][8:]},
    "deep header": lambda files: {**files, "weights": struct.pack("<Q", 10_000) + b"[" * 10_000},
    "not a number": lambda files: with_tensors(files, spoiled),
    "wrong shape": lambda files: with_tensors(files, lambda tensor: tensor.repeat(1, 2)),
    "wrong type": lambda files: with_tensors(files, lambda tensor: tensor.to(torch.int64)),
    "config is no JSON": lambda files: {**files, "config": b"{"},
    "config is a list": lambda files: {**files, "config": b"[]"},
    "config is not UTF-8": lambda files: {**files, "config": b'{"r": "\xff"}'},
    "config has infinity": lambda files: {**files, "config": b'{"r": Infinity}'},
    "config is empty": lambda files: {**files, "config": b""},
    "config is deep": lambda files: {**files, "config": b"[" * 100_000},
    "other kind": lambda files: changed(files, peft_type="IA3"),
    "unknown key": lambda files: changed(files, no_such_key=1),
    "unknown target": lambda files: changed(files, target_modules=["no_proj"]),
    "rank zero": lambda files: changed(files, r=0),
    "rank over the limit": lambda files: changed(files, r=9),
    "rank is huge": lambda files: changed(files, r=10**30),
}


@pytest.mark.parametrize("how", SPOIL)
def test_bad_adapter(face: Face, name: str, how: str) -> None:
    answer = face.push(name, SPOIL[how](face.files()))
    assert answer.status_code in (400, 413), answer.text
    error = answer.json()["error"]
    assert error["type"] in ("InvalidAdapter", "TooLarge"), error
    assert error["param"] and error["message"].startswith(error["param"]), error
    nothing_is_left(face, name)


def test_bad_version_leaves_the_good_one(face: Face, name: str) -> None:
    good = face.push(name).json()
    for spoil in SPOIL.values():
        assert face.push(name, spoil(face.files()), alias="production").status_code in (400, 413)
    assert face.client.get(f"/v1/adapters/{name}/versions").json()["data"] == [good]


def test_config_that_is_too_large(face: Face, name: str) -> None:
    files = {**face.files(), "config": b" " * (2**20 + 1)}
    answer = face.push(name, files)
    assert answer.status_code == 413, answer.text
    nothing_is_left(face, name)
