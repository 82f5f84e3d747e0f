import json
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import fsspec
import pytest

from polyad.adapters_store.errors import (
    ConfigError,
    Forbidden,
    InvalidSource,
    PolyadError,
    SourceUnavailable,
    TooLarge,
    UnknownSource,
)
from polyad.adapters_store.source import SourcePolicy, fetch_source, folder_source

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"


def make_folder(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or (CONFIG, WEIGHTS):
        (folder / name).write_bytes(f"content of {name}".encode())
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def policy(*allowed: str, **options: Any) -> SourcePolicy:
    return SourcePolicy(**{"max_bytes": 1000, "max_config_bytes": 100, "allowed_urls": allowed, **options})


@pytest.fixture
def memory() -> Iterator[Any]:
    files = fsspec.filesystem("memory")
    for folder in ("allowed/one", "allowed-evil/one"):
        for name in (CONFIG, WEIGHTS):
            files.pipe_file(f"/{folder}/{name}", f"content of {name}".encode())
    yield files
    files.store.clear()


@pytest.mark.parametrize("prefix", ["memory://allowed", "memory://allowed/", "memory://allowed/one"])
async def test_allowed_url(memory: Any, tmp_path: Path, prefix: str) -> None:
    files = await fetch_source("memory://allowed/one/", tmp_path, policy(prefix))
    assert files.config == b"content of adapter_config.json"
    assert files.weights.read_bytes() == b"content of adapter_model.safetensors"
    assert files.weights.parent == tmp_path
    assert files.source == "memory://allowed/one"


async def test_initial_weights_are_fetched_if_they_are_there(memory: Any, tmp_path: Path) -> None:
    rules = policy("memory://allowed")
    assert (await fetch_source("memory://allowed/one", tmp_path, rules)).initial is None
    memory.pipe_file(f"/allowed/one/initial/{WEIGHTS}", b"before")
    initial = (await fetch_source("memory://allowed/one", tmp_path, rules)).initial
    assert initial == tmp_path / "initial" / WEIGHTS
    assert initial.read_bytes() == b"before"
    memory.pipe_file(f"/allowed/one/initial/{WEIGHTS}", bytes(1001))
    with pytest.raises(TooLarge, match=f"initial/{WEIGHTS}.*at most 1000 bytes"):
        await fetch_source("memory://allowed/one", tmp_path, rules)


@pytest.mark.parametrize(
    "source",
    [
        "",
        "allowed/one",
        "/allowed/one",
        "memory://",
        "memory://allowed-evil/one",
        "memory://other/one",
        "memory://allowed/../allowed-evil/one",
        "memory://allowed/./one",
        "memory://allowed//one",
        "memory://allowed/%2e%2e/allowed-evil/one",
        "memory://allowed/..%2fallowed-evil/one",
        "memory://user@allowed/one",
        "memory://user:secret@allowed/one",
        "memory://allowed/one?x=1",
        "memory://allowed/one#x",
        "memory://allowed/o*",
        "memory://allowed/one\n",
        "memory://allowed/one\\..\\two",
        "memory://allowed/\uff0e\uff0e/one",
        "memory://allowed/one\0",
        "MEMORY://allowed/one",
        "memory:/allowed/one",
        "simplecache::memory://allowed/one",
        "memory://allowed/one::memory://allowed-evil/one",
        "simplecache://allowed/one",
        "zip://x::memory://allowed/one",
        "file:///etc",
        "local:///etc",
        "https://allowed/one",
        "memory://allowed/" + "x" * 1000,
    ],
)
async def test_what_is_not_allowed(memory: Any, tmp_path: Path, source: str) -> None:
    with pytest.raises(InvalidSource, match="source: got"):
        await fetch_source(source, tmp_path, policy("memory://allowed"))
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "source", ["s3://user:secret@bucket/one", "s3://u:12/secret@bucket/one", "a::b://u:secret@c/d"]
)
async def test_a_password_in_a_url_is_not_quoted(tmp_path: Path, source: str) -> None:
    with pytest.raises(InvalidSource, match=r"source: got '.*\*\*\*@") as refused:
        await fetch_source(source, tmp_path, policy("s3://bucket"))
    assert "secret" not in str(refused.value)


async def test_prefixes_end_at_a_segment(memory: Any, tmp_path: Path) -> None:
    memory.mv("/allowed-evil/one", "/allowed/one-evil", recursive=True)
    with pytest.raises(InvalidSource, match="source: got"):
        await fetch_source("memory://allowed/one-evil", tmp_path, policy("memory://allowed/one"))


@pytest.mark.parametrize("prefix", ["", "memory://", "s3://bucket/*", "s3://a/../b", "/folder", "a::b://c/d"])
def test_prefixes_are_checked_at_start(prefix: str) -> None:
    with pytest.raises(ConfigError, match="allowed_urls"):
        policy(prefix)


def test_the_token_is_not_shown() -> None:
    assert "secret" not in repr(policy(hub_token="secret"))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda files: files.rm("/allowed/one", recursive=True), UnknownSource, "adapter_config.json"),
        (lambda files: files.rm(f"/allowed/one/{CONFIG}"), UnknownSource, "adapter_config.json"),
        (lambda files: files.rm(f"/allowed/one/{WEIGHTS}"), UnknownSource, "adapter_model.safetensors"),
        (lambda files: files.mv(f"/allowed/one/{WEIGHTS}", f"/allowed/one/{PICKLE}"), InvalidSource, "is a pickle"),
        (lambda files: files.pipe_file(f"/allowed/one/{CONFIG}", bytes(101)), TooLarge, "at most 100 bytes"),
        (lambda files: files.pipe_file(f"/allowed/one/{WEIGHTS}", bytes(1001)), TooLarge, "at most 1000 bytes"),
    ],
)
async def test_what_an_allowed_folder_lacks(
    memory: Any, tmp_path: Path, spoil: Any, error: type[PolyadError], message: str
) -> None:
    spoil(memory)
    with pytest.raises(error, match=message):
        await fetch_source("memory://allowed/one", tmp_path, policy("memory://allowed"))
    assert not (tmp_path / WEIGHTS).exists()


async def test_file_url_stays_under_its_prefix(tmp_path: Path) -> None:
    allowed = make_folder(tmp_path / "allowed" / "one").parent
    make_folder(tmp_path / "outside")
    (allowed / "link").symlink_to(tmp_path / "outside")
    rules = policy(f"file://{allowed}")
    files = await fetch_source(f"file://{allowed}/one", tmp_path, rules)
    assert files.weights == allowed / "one" / WEIGHTS
    with pytest.raises(Forbidden):
        await fetch_source(f"file://{allowed}/link", tmp_path, rules)
    with pytest.raises(InvalidSource):
        await fetch_source(f"file://{tmp_path}/outside", tmp_path, rules)
    with pytest.raises(InvalidSource):
        await fetch_source(f"local://{allowed}/one", tmp_path, rules)


def test_folder_by_name_and_by_path(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "root" / "team" / "one").parents[1]
    (root / "link").symlink_to(root / "team")
    for path in ("team/one", "team/../team/./one", str(root / "team" / "one"), "link/one"):
        files = folder_source(root, path)
        assert files.config == b"content of adapter_config.json"
        assert files.weights == root / "team" / "one" / WEIGHTS


def test_initial_weights_in_a_folder(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "root" / "one").parent
    assert folder_source(root, "one").initial is None
    make_folder(root / "one" / "initial", WEIGHTS)
    assert folder_source(root, "one").initial == root / "one" / "initial" / WEIGHTS
    (root / "one" / "initial" / WEIGHTS).unlink()
    (root / "one" / "initial" / WEIGHTS).mkdir()
    with pytest.raises(InvalidSource, match="regular file"):
        folder_source(root, "one")
    (root / "one" / "initial" / WEIGHTS).rmdir()
    make_folder(tmp_path / "outside", WEIGHTS)
    (root / "one" / "initial" / WEIGHTS).symlink_to(tmp_path / "outside" / WEIGHTS)
    with pytest.raises(Forbidden):
        folder_source(root, "one")


def make_outside(tmp_path: Path) -> Path:
    root = make_folder(tmp_path / "root" / "one").parent
    make_folder(tmp_path / "root-evil")
    make_folder(tmp_path / "outside")
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "half").mkdir()
    (root / "half" / CONFIG).write_bytes(b"{}")
    (root / "half" / WEIGHTS).symlink_to(tmp_path / "outside" / WEIGHTS)
    return root


@pytest.mark.parametrize(
    "path",
    [
        "..",
        "../outside",
        "../nothing",
        "/",
        "/etc/passwd",
        "/no/such/place",
        "out",
        "half",
        "../root-evil",
        "one/../..",
    ],
)
def test_folder_outside_of_the_root(tmp_path: Path, path: str) -> None:
    with pytest.raises(Forbidden, match="does not lie under the configured root"):
        folder_source(make_outside(tmp_path), path)


def test_what_a_folder_lacks(tmp_path: Path) -> None:
    root = tmp_path
    (root / "loop").symlink_to(root / "loop")
    make_folder(root / "empty", "other")
    make_folder(root / "pickle", CONFIG, PICKLE)
    make_folder(root / "large")
    (root / "large" / CONFIG).write_bytes(bytes(101))
    make_folder(root / "pipe", WEIGHTS)
    os.mkfifo(root / "pipe" / CONFIG)
    for path, error, message in (
        ("", InvalidSource, "characters"),
        ("a\0b", InvalidSource, "characters"),
        ("x" * 5000, InvalidSource, "characters"),
        ("loop", PolyadError, "lora_path"),
        ("nothing", UnknownSource, "has no"),
        ("empty", UnknownSource, "has no"),
        ("pickle", InvalidSource, "is a pickle"),
        ("pipe", InvalidSource, "regular file"),
        ("large", TooLarge, "at most 100 bytes"),
    ):
        with pytest.raises(error, match=message):
            folder_source(root, path, max_config_bytes=100)


class Server(BaseHTTPRequestHandler):
    """The Hub's HTTP interface, as far as its client needs it here; and any other web server."""

    pages: ClassVar[dict[str, tuple[int, dict[str, str], bytes]]] = {}
    tokens: ClassVar[set[str | None]] = set()

    def do_GET(self) -> None:
        self.tokens.add(self.headers["Authorization"])
        status, headers, body = self.pages.get(self.path.partition("?")[0], (404, {}, b""))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Server.pages.clear()
    Server.tokens.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as listening:
        thread = Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def publish(revision: str = "main", **files: bytes) -> None:
    called = {"config": CONFIG, "weights": WEIGHTS, "pickle": PICKLE, "initial": f"initial/{WEIGHTS}"}
    siblings = [{"rfilename": called[key], "size": len(content)} for key, content in files.items()]
    info = json.dumps({"id": "org/repo", "modelId": "org/repo", "sha": COMMIT, "siblings": siblings}).encode()
    Server.pages[f"/api/models/org/repo/revision/{revision}"] = (200, {"Content-Type": "application/json"}, info)
    for key, content in files.items():
        headers = {"ETag": f'"{key}"', "X-Repo-Commit": COMMIT}
        Server.pages[f"/org/repo/resolve/{COMMIT}/{called[key]}"] = (200, headers, content)


@pytest.mark.parametrize(("source", "revision"), [("hf://org/repo", "main"), ("hf://org/repo@v1.0", "v1.0")])
async def test_hub(server: str, tmp_path: Path, source: str, revision: str) -> None:
    publish(revision, config=b"{}", weights=b"weights")
    files = await fetch_source(source, tmp_path, policy(hub_endpoint=server))
    assert (files.config, files.weights.read_bytes()) == (b"{}", b"weights")
    assert files.source == f"hf://org/repo@{COMMIT}"
    assert files.initial is None


@pytest.mark.parametrize(("token", "sent"), [(None, None), ("theirs", "Bearer theirs")])
async def test_the_hub_sees_no_token_but_the_configured_one(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None, sent: str | None
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_operator")
    publish(config=b"{}", weights=b"weights", initial=b"before")
    await fetch_source("hf://org/repo", tmp_path, policy(hub_endpoint=server, hub_token=token))
    assert Server.tokens == {sent}


async def test_initial_weights_from_the_hub(server: str, tmp_path: Path) -> None:
    publish(config=b"{}", weights=b"weights", initial=b"before")
    files = await fetch_source("hf://org/repo", tmp_path, policy(hub_endpoint=server))
    assert files.initial is not None and files.initial.read_bytes() == b"before"


@pytest.mark.parametrize(
    "source",
    [
        "hf://",
        "hf://repo",
        "hf://a/b/c",
        "hf://../b",
        "hf://a/..",
        "hf://a/b@",
        "hf://a/b@../x",
        "hf://a/b@x y",
        "hf://a/b?x",
    ],
)
async def test_malformed_hub_source(server: str, tmp_path: Path, source: str) -> None:
    with pytest.raises(InvalidSource, match="hf://organisation/repository"):
        await fetch_source(source, tmp_path, policy(hub_endpoint=server))


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({"config": b"{}", "pickle": b"x"}, InvalidSource, "is a pickle"),
        ({"config": b"{}"}, UnknownSource, "has no adapter_model.safetensors"),
        ({"weights": b"x"}, UnknownSource, "has no adapter_config.json"),
        ({"config": bytes(101), "weights": b"x"}, TooLarge, "adapter_config.json.*at most 100 bytes"),
        ({"config": b"{}", "weights": bytes(1001)}, TooLarge, "adapter_model.safetensors.*at most 1000 bytes"),
        ({"config": b"{}", "weights": b"x", "initial": bytes(1001)}, TooLarge, "initial/adapter_model.safetensors"),
    ],
)
async def test_what_a_repository_lacks(
    server: str, tmp_path: Path, files: dict[str, bytes], error: type[PolyadError], message: str
) -> None:
    publish(**files)
    with pytest.raises(error, match=message):
        await fetch_source("hf://org/repo", tmp_path, policy(hub_endpoint=server))


@pytest.mark.parametrize("code", ["RepoNotFound", "RevisionNotFound", "GatedRepo"])
async def test_unknown_repository(server: str, tmp_path: Path, code: str) -> None:
    status = 403 if code == "GatedRepo" else 404
    Server.pages["/api/models/org/repo/revision/main"] = (status, {"X-Error-Code": code}, b"{}")
    with pytest.raises(UnknownSource, match="hf://org/repo"):
        await fetch_source("hf://org/repo", tmp_path, policy(hub_endpoint=server))


async def test_hub_that_does_not_answer(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Server.pages["/api/models/org/repo/revision/main"] = (500, {}, b"{}")
    with pytest.raises(SourceUnavailable):
        await fetch_source("hf://org/repo", tmp_path, policy(hub_endpoint=server))
    with pytest.raises(SourceUnavailable):
        await fetch_source("hf://org/repo", tmp_path, policy(hub_endpoint="http://127.0.0.1:1"))
    publish(config=b"{}", weights=b"x")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SourceUnavailable, match="OfflineMode"):
        await fetch_source("hf://org/repo", tmp_path, policy(hub_endpoint=server))


async def test_hub_switched_off(tmp_path: Path) -> None:
    with pytest.raises(InvalidSource, match="switched off"):
        await fetch_source("hf://org/repo", tmp_path, policy(hub=False))


async def test_a_web_server_cannot_send_us_elsewhere(server: str, tmp_path: Path) -> None:
    for name in (CONFIG, WEIGHTS):
        Server.pages[f"/allowed/one/{name}"] = (200, {}, b"allowed")
        Server.pages[f"/allowed/two/{name}"] = (302, {"Location": f"{server}/inside/{name}"}, b"")
        Server.pages[f"/inside/{name}"] = (200, {}, b"secret")
    rules = policy(f"{server}/allowed")
    assert (await fetch_source(f"{server}/allowed/one", tmp_path, rules)).config == b"allowed"
    try:
        files = await fetch_source(f"{server}/allowed/two", tmp_path, rules)
    except PolyadError:
        return
    assert b"secret" not in files.config + files.weights.read_bytes()
