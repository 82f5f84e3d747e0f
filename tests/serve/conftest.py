"""One running server for all tests, and what is needed to speak to it. Nothing here is made before a test asks."""

import itertools
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from openai import OpenAI

from polyad.adapters_store.base_model import BaseModel
from tests.fixtures.adapters import CONFIG, WEIGHTS, write_adapter
from tests.fixtures.ports import free_port
from tests.fixtures.server import ServerProcess, serving

if TYPE_CHECKING:
    from tests.fixtures.reference import PeftReference

ROOT = Path(__file__).resolve().parents[2]
BASE_NAME = "SmolLM2-135M-Instruct"
SLOTS = 2
MAX_RANK = 16
# Prompts of more tokens than this are prefilled in several chunks.
CHUNK_TOKENS = 256

_SERVER_OPTIONS = ("--slots", str(SLOTS), "--max-rank", str(MAX_RANK), "--slot-wait-s", "0.5")
_ENGINE_OPTIONS = (
    "--served-model-name",
    BASE_NAME,
    "--max-num-batched-tokens",
    str(CHUNK_TOKENS),
    "--enable-prompt-tokens-details",
)

Push = Callable[..., str]


@pytest.fixture(scope="session")
def base_model() -> Path:
    """The folder of the example's base model, unpacked once for all runs."""
    from polyad.serve.example import unpack_base_model

    return unpack_base_model(ROOT / ".cache" / "base-models", print)


@pytest.fixture(scope="session")
def base(base_model: Path) -> BaseModel:
    return BaseModel.from_folder(base_model, BASE_NAME)


@pytest.fixture(scope="session")
def server(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """`polyad serve` with its own embedded Redis: SLOTS slots, CHUNK_TOKENS tokens a step, no keys."""
    state = tmp_path_factory.mktemp("server")
    rpc = ("--grpc-port", str(free_port()))
    with serving(base_model, state, free_port(), *_SERVER_OPTIONS, *rpc, *_ENGINE_OPTIONS) as running:
        running.rpc_address = f"127.0.0.1:{rpc[1]}"
        yield running


@pytest.fixture(scope="session")
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


@pytest.fixture(scope="session")
def openai_client(server: ServerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture(scope="session")
def reference(base_model: Path) -> "PeftReference":
    from tests.fixtures.reference import PeftReference

    return PeftReference(base_model)


@pytest.fixture
def new_name(request: pytest.FixtureRequest, client: httpx.Client) -> Iterator[Callable[[], str]]:
    """Names for adapters that no other test uses; the adapters are deleted after the test."""
    stem = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:40].strip("-")
    numbers = itertools.count(1)
    given: list[str] = []

    def name() -> str:
        given.append(f"{stem}-{abs(hash(request.node.nodeid)) % 10**6}-{next(numbers)}")
        return given[-1]

    yield name
    for used in given:
        client.delete(f"/v1/adapters/{used}")


@pytest.fixture
def make_adapter(base: BaseModel, tmp_path: Path) -> Callable[..., Path]:
    """A folder with a new adapter of random factors; `write_adapter` says what may be given."""
    numbers = itertools.count()
    return lambda **options: write_adapter(tmp_path / f"adapter-{next(numbers)}", base, **options)


@pytest.fixture
def push(client: httpx.Client) -> Push:
    """Push a folder as a version of an adapter; the version's label."""

    def pushed(name: str, folder: Path, alias: str | None = None) -> str:
        files = {"config": (folder / CONFIG).read_bytes(), "weights": (folder / WEIGHTS).read_bytes()}
        data = {"name": name} | ({"alias": alias} if alias else {})
        for _ in range(10):
            answer = client.post("/v1/adapters", data=data, files=files)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(0.5)  # a machine too busy for Redis to answer in time
        assert answer.is_success, answer.text
        label: str = answer.json()["version"]
        return label

    return pushed


@pytest.fixture
def new_adapter(new_name: Callable[[], str], make_adapter: Callable[..., Path], push: Push) -> Callable[..., str]:
    """Make and push an adapter with one version; its name."""

    def made(seed: int, **options: object) -> str:
        name = new_name()
        push(name, make_adapter(seed=seed, **options))
        return name

    return made
