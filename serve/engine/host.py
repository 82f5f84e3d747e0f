"""Host memory of a worker: a thread reads versions, cuts them to this rank and packs them, never the engine's step."""

import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import torch

from polyad.adapters_store.delta import Delta, ModuleDelta, read_delta
from polyad.adapters_store.pace import Pace
from polyad.kernels.linear import PackedLinear
from polyad.serve.engine.layers import AdaptedLayer
from polyad.serve.engine.slots import PackedVersion

LOADING = "loading"
READY = "ready"
FAILED = "failed: "

_NICENESS = 10
# After every layer: what packs and what launches a step's operations are one Python.
_WORK_S = 0.0
_REST_S = 0.001
# Steps that are no further apart than this follow one another.
_STEPS_APART_S = 0.5


def _yield_to_the_engine() -> None:
    """Let this thread run after the engine's own, and on any core: on CPU the engine's are bound to theirs."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
    with suppress(OSError):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    torch.set_num_threads(1)


class HostMemory:
    """The versions of one worker. The front end decides what is in here: `load`, `state`, `drop`.

    `rename` gives the engine's name of a module of the model. With `whole`, every module of a version must have a layer
    here; without, other workers may have it.
    """

    def __init__(
        self, layers: Mapping[str, AdaptedLayer], dtype: torch.dtype, rename: Callable[[str], str | None], whole: bool
    ) -> None:
        self._layers = layers
        self._dtype = dtype
        self._rename = rename
        self._whole = whole
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="polyad-load", initializer=_yield_to_the_engine)
        self._reads: dict[int, Future[PackedVersion]] = {}
        self.owners: dict[int, str] = {}
        self._stepped = -_STEPS_APART_S
        self._pace = Pace(lambda: time.monotonic() - self._stepped < _STEPS_APART_S, _WORK_S, _REST_S)

    def step(self) -> None:
        """A step is made now."""
        self._stepped = time.monotonic()

    def load(self, engine_id: int, path: str, owner: str = "") -> None:
        """Begin to bring a delta file into host memory; returns at once. `owner` is the tenant that asked for it."""
        if engine_id not in self._reads:
            self._reads[engine_id] = self._reader.submit(self._read, Path(path))
            self.owners[engine_id] = owner

    def state(self, engine_id: int) -> str:
        """LOADING, READY, or FAILED followed by the reason."""
        read = self._reads.get(engine_id)
        if read is None:
            return f"{FAILED}the engine was not asked to load it"
        if not read.done():
            return LOADING
        if error := read.exception():
            del self._reads[engine_id]
            return f"{FAILED}{type(error).__name__}: {error}"
        return READY

    def drop(self, engine_id: int) -> None:
        self.owners.pop(engine_id, None)
        if read := self._reads.pop(engine_id, None):
            read.cancel()

    @property
    def versions(self) -> list[int]:
        """The engine ids of all that is here, or on its way."""
        return list(self._reads)

    def __getitem__(self, engine_id: int) -> PackedVersion:
        # Under data parallelism only the first engine's state is polled: another may be a moment behind.
        return self._reads[engine_id].result()

    def _read(self, path: Path) -> PackedVersion:
        return self._packed(read_delta(path))

    def _packed(self, delta: Delta) -> PackedVersion:
        changes = {self._rename(module): change for module, change in delta.modules.items()}
        packed = {}
        for name, layer in self._layers.items():
            packed[name] = self._in_layer(layer, changes)
            self._pace.rest()
        if self._whole and (lost := changes.keys() - _claimed(self._layers)):
            raise ValueError(f"the engine has no layer for {', '.join(sorted(map(str, lost))[:5])}")
        return {name: found for name, found in packed.items() if found is not None}

    def _in_layer(self, layer: AdaptedLayer, changes: Mapping[str | None, ModuleDelta]) -> PackedLinear | None:
        found = [(place, changes.get(place.module)) for place in layer.placements]
        return layer.deltas.pack(
            [None if change is None else place.local(change, self._dtype) for place, change in found]
        )


def _claimed(layers: Mapping[str, AdaptedLayer]) -> set[str]:
    return {place.module for layer in layers.values() for place in layer.placements}
