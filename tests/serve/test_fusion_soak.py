"""Fused and plain requests in one crowd, on an engine with too little room for all; bench_fusion_soak.py is longer."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from polyad.adapters_store.base_model import BaseModel
from tests.fixtures.adapters import CONFIG, WEIGHTS, write_adapter
from tests.fixtures.fusion_soak import ENGINE, SMALL_CACHE, soak
from tests.fixtures.ports import free_port
from tests.fixtures.server import serving

FUSED, PLAIN = 20, 20


@pytest.fixture
def crowded(base_model: Path, tmp_path: Path) -> Iterator[httpx.Client]:
    with (
        serving(base_model, tmp_path / "state", free_port(), "--slots", "2", *ENGINE, *SMALL_CACHE) as server,
        httpx.Client(base_url=server.url, timeout=600) as client,
    ):
        yield client


def test_nothing_differs_hangs_or_is_left_behind(crowded: httpx.Client, base: BaseModel, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        folder = write_adapter(tmp_path / name, base, seed=seed, size=0.2)
        files = {"config": (folder / CONFIG).read_bytes(), "weights": (folder / WEIGHTS).read_bytes()}
        crowded.post("/v1/adapters", data={"name": name}, files=files).raise_for_status()
    found = soak(crowded, "a", "b", FUSED, PLAIN, seed=1)
    assert found.failures == []
    assert found.answered + found.cancelled == FUSED + PLAIN
    assert 0 < found.cancelled < PLAIN
