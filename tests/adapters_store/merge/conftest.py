"""Deltas to merge, and a merge of them in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from polyad.adapters_store.delta import Delta, LowRank, ModuleDelta, dense
from polyad.adapters_store.merge import Compress, Execution, Input, Merged, Recipe
from tests.fixtures.mergekit_configs import write_models

SHAPES = {
    f"layers.{layer}.{name}": shape for layer in range(3) for name, shape in {"q": (12, 8), "up": (7, 20)}.items()
}

Tasks = list[torch.Tensor]
Merge = Callable[..., Merged]


def low_rank_delta(seed: int, rank: int = 3) -> Delta:
    """Random factors for every module of SHAPES, float32."""
    generator = torch.Generator().manual_seed(seed)
    return Delta(
        {
            module: ModuleDelta(
                low_rank=LowRank(
                    torch.randn(rank, columns, generator=generator), torch.randn(rows, rank, generator=generator), 0.5
                )
            )
            for module, (rows, columns) in SHAPES.items()
        }
    )


def matrices(delta: Delta, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """dW of every module of SHAPES."""
    found = {}
    for module, shape in SHAPES.items():
        matrix, _ = dense(delta.modules.get(module, ModuleDelta()), dtype=dtype)
        found[module] = torch.zeros(shape, dtype=dtype) if matrix is None else matrix
    return found


@pytest.fixture
def deltas() -> dict[str, Delta]:
    """Three of them, of different ranks; c does not touch one module."""
    made = {"a": low_rank_delta(1, 3), "b": low_rank_delta(2, 5), "c": low_rank_delta(3, 2)}
    del made["c"].modules["layers.1.q"]  # type: ignore[attr-defined]
    return made


@pytest.fixture
def merge(deltas: dict[str, Delta]) -> Merge:
    """`merge("ties", "ab", weights=[1, 0.5], density=0.3)`; a weight of None is left to the default."""

    def run(
        method: str,
        names: str,
        weights: list[float] | None = None,
        variant: str | None = None,
        seed: int = 0,
        compress: Compress | None = None,
        threads: int = 1,
        statistics: Any = None,
        **parameters: Any,
    ) -> Merged:
        inputs = tuple(
            Input(((name, 1.0),), weight) for name, weight in zip(names, weights or [1.0] * len(names), strict=True)
        )
        recipe = Recipe(
            method=method,
            variant=variant,
            inputs=inputs,
            parameters=tuple(parameters.items()),
            seed=seed,
            compress=compress,
        )
        return Execution(recipe=recipe, deltas=deltas, threads=threads, statistics=statistics).run()

    return run


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models that the configurations of mergekit's name; nobody writes to it."""
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    return folder
