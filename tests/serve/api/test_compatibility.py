"""vLLM's own adapter routes, for scripts: a folder on the server becomes a version, and nothing outside can."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serve.api.conftest import Face, refused


@pytest.fixture(scope="session")
def rooted(new_face: Callable[..., Face], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Face]:
    with new_face(adapter_root=tmp_path_factory.mktemp("adapter-root")) as running:
        yield running


@pytest.fixture
def root(rooted: Face) -> Path:
    assert rooted.settings.adapter_root is not None
    return rooted.settings.adapter_root


def write(face: Face, folder: Path) -> Path:
    folder.mkdir(parents=True)
    files = face.files()
    (folder / "adapter_config.json").write_bytes(files["config"])
    (folder / "adapter_model.safetensors").write_bytes(files["weights"])
    return folder


def load(face: Face, name: str, path: object, **more: Any) -> httpx.Response:
    return face.client.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(path), **more})


@pytest.mark.parametrize("relative", [True, False])
def test_load_and_unload(rooted: Face, root: Path, name: str, relative: bool) -> None:
    folder = write(rooted, root / name)
    answer = load(rooted, name, name if relative else folder)
    assert (answer.status_code, answer.text) == (200, f"Success: LoRA adapter '{name}' added successfully.")
    assert answer.headers["content-type"].startswith("text/plain")
    version = rooted.client.get(f"/v1/adapters/{name}/versions/production").json()
    assert version["source"] == f"file://{folder.resolve()}"
    gone = rooted.client.post("/v1/unload_lora_adapter", json={"lora_name": name})
    assert (gone.status_code, gone.text) == (200, f"Success: LoRA adapter '{name}' removed successfully.")
    again = rooted.client.post("/v1/unload_lora_adapter", json={"lora_name": name})
    refused(again, 404, "UnknownAdapter", "adapter")


def test_load_again_replaces_only_in_place(rooted: Face, root: Path, name: str) -> None:
    write(rooted, root / name / "1")
    write(rooted, root / name / "2")
    load(rooted, name, f"{name}/1")
    refused(load(rooted, name, f"{name}/2"), 409, "Conflict", "lora_name")
    assert load(rooted, name, f"{name}/2", load_inplace=True).status_code == 200
    assert rooted.client.get(f"/v1/adapters/{name}").json()["aliases"] == {"previous": "v1", "production": "v2"}


@pytest.mark.parametrize("path", ["/etc", "..", "../..", "/", "a/../../..", "/etc/passwd", "~", "%2e%2e"])
def test_paths_outside_the_root(rooted: Face, name: str, path: str) -> None:
    answer = load(rooted, name, path)
    expected = (404, "UnknownSource") if path in ("~", "%2e%2e") else (403, "Forbidden")
    assert (answer.status_code, answer.json()["error"]["type"]) == expected, answer.text


def test_links_out_of_the_root(rooted: Face, root: Path, name: str, tmp_path: Path) -> None:
    outside = write(rooted, tmp_path / "outside")
    (root / f"{name}-folder").symlink_to(outside)
    refused(load(rooted, name, f"{name}-folder"), 403, "Forbidden", None)
    (root / f"{name}-files").mkdir()
    for file in outside.iterdir():
        (root / f"{name}-files" / file.name).symlink_to(file)
    refused(load(rooted, name, f"{name}-files"), 403, "Forbidden", None)
    (root / f"{name}-loop").symlink_to(root / f"{name}-loop")
    assert load(rooted, name, f"{name}-loop").status_code in (400, 404)
    refused(rooted.client.get(f"/v1/adapters/{name}"), 404, "UnknownAdapter", "adapter")


@pytest.mark.parametrize("path", ["", "\u0000", "a" * 4097, "nothing-here", "a\n"])
def test_paths_that_are_none(rooted: Face, name: str, path: str) -> None:
    answer = load(rooted, name, path)
    assert (answer.status_code, answer.json()["error"]["param"]) == (
        404 if path in ("nothing-here", "a\n") else 400,
        "lora_path",
    )


def test_pickle_is_named(rooted: Face, root: Path, name: str) -> None:
    folder = write(rooted, root / name)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "pickle" in refused(load(rooted, name, name), 400, "InvalidSource", "lora_path")


def test_without_a_root_nothing_is_read(face: Face, name: str, tmp_path: Path) -> None:
    refused(load(face, name, write(face, tmp_path / "a")), 400, "InvalidInput", "lora_path")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "lora_name"),
        ({"lora_name": "a"}, "lora_path"),
        ({"lora_name": 1, "lora_path": "a"}, "lora_name"),
        ({"lora_name": "../a", "lora_path": "a"}, "lora_name"),
        ({"lora_name": "tiny", "lora_path": "a"}, "name"),
        ({"lora_name": "a", "lora_path": "a", "base_model_name": "b"}, "base_model_name"),
        ({"lora_name": "a", "lora_path": "a", "is_3d_lora_weight": True}, "is_3d_lora_weight"),
        ({"lora_name": "a", "lora_path": "a", "load_inplace": "perhaps"}, "load_inplace"),
    ],
)
def test_bodies_are_checked(rooted: Face, root: Path, body: dict[str, Any], param: str) -> None:
    (root / "a").mkdir(exist_ok=True)
    answer = rooted.client.post("/v1/load_lora_adapter", json=body)
    if param == "name":
        write(rooted, root / "b")
        answer = rooted.client.post("/v1/load_lora_adapter", json={**body, "lora_path": "b"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
