"""Host memory of a worker: versions are read, parsed and packed here by a thread, never inside the engine's step."""

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from vllm.lora.lora_model import LoRAModel
from vllm.lora.lora_weights import LoRALayerWeights
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager

from polyad.adapters_store.delta import Delta, LowRank, ModuleDelta, read_delta
from polyad.serve.engine.slots import SlotManager

LOADING = "loading"
READY = "ready"
FAILED = "failed: "

_NICENESS = 10


def _yield_to_the_engine() -> None:
    """Let this thread run after the engine's own, and on any core: on CPU the engine's are bound to theirs."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
    with suppress(OSError):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))


class HostLoRAManager(LRUCacheWorkerLoRAManager):
    """Stands in for vLLM's worker-side LoRA manager.

    The front end decides what is in host memory (`load`, `state`, `drop`); a step only copies from there into slots.
    """

    _manager_cls = SlotManager

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="polyad-load", initializer=_yield_to_the_engine)
        self._reads: dict[int, Future[LoRAModel]] = {}

    def load(self, engine_id: int, path: str) -> None:
        """Begin to bring a delta file into host memory; returns at once."""
        if engine_id not in self._reads and engine_id not in self.list_adapters():
            self._reads[engine_id] = self._reader.submit(self._read, engine_id, Path(path))

    def state(self, engine_id: int) -> str:
        """LOADING, READY, or FAILED followed by the reason."""
        if engine_id in self._adapter_manager.registered:
            return READY
        read = self._reads.get(engine_id)
        if read is None:
            return f"{FAILED}the engine was not asked to load it"
        if not read.done():
            return LOADING
        if error := read.exception():
            del self._reads[engine_id]
            return f"{FAILED}{type(error).__name__}: {error}"
        self._finish(engine_id)
        return READY

    def drop(self, engine_ids: list[int]) -> None:
        """Free the slots and the host memory of versions that no request uses."""
        for engine_id in engine_ids:
            if read := self._reads.pop(engine_id, None):
                read.cancel()
            self._adapter_manager.remove_adapter(engine_id)

    def _apply_adapters(self, lora_requests: set[LoRARequest]) -> None:
        engine_ids = {request.lora_int_id for request in lora_requests if request}
        # Under data parallelism only the first engine's state is polled: another may be a moment behind.
        for engine_id in engine_ids & self._reads.keys():
            self._finish(engine_id)
        self._adapter_manager.activate(engine_ids)

    def _finish(self, engine_id: int) -> None:
        self._adapter_manager.register(self._reads.pop(engine_id).result())

    def _read(self, engine_id: int, path: Path) -> LoRAModel:
        delta = read_delta(path)
        model = LoRAModel(engine_id, delta.rank, self._layer_weights(delta))
        self._adapter_manager.pack(model)
        return model

    def _layer_weights(self, delta: Delta) -> dict[str, LoRALayerWeights]:
        mapper = getattr(self._adapter_manager.model, "hf_to_vllm_mapper", None)
        rename = mapper.get_rename_mapper().map_name if mapper is not None else str
        dtype = self.lora_config.lora_dtype
        weights = {}
        for module, change in delta.modules.items():
            term = _low_rank(module, change)
            name = rename(module)
            a, b = term.a.to(dtype, copy=True), (term.b.to(torch.float32) * term.scale).to(dtype)
            _check_range(module, term.a, a, b)
            weights[name] = LoRALayerWeights(name, a.shape[0], a.shape[0], a, b, scaling=1)
        return weights


def _low_rank(module: str, change: ModuleDelta) -> LowRank:
    if change.low_rank is None or not change.is_low_rank:
        parts = ", ".join(sorted(change.tensors))
        raise ValueError(f"{module}: this engine serves low-rank changes only, the version has {parts}")
    return change.low_rank


def _check_range(module: str, stored: torch.Tensor, *served: torch.Tensor) -> None:
    """Admission saw finite values; scaled, or in a narrower dtype than they were stored in, they may be none."""
    if served[0].dtype == torch.float16 or stored.dtype != served[0].dtype:
        for factor in served:
            if not torch.isfinite(factor).all():
                raise ValueError(f"{module}: values overflow in the engine's {factor.dtype}")
