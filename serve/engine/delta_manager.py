"""Stands where vLLM's worker has its LoRA manager: before each step it puts into slots what the batch needs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from vllm.config import CompilationMode
from vllm.lora.layers import LoRAMapping, LoRAMappingType
from vllm.lora.request import LoRARequest

from polyad.kernels.backend import Backend, select
from polyad.kernels.batch import Batch
from polyad.serve.engine.composition import weights
from polyad.serve.engine.host import HostMemory
from polyad.serve.engine.layers import Step, adapt
from polyad.serve.engine.slots import Slots


class DeltaManager:
    """Made by vLLM's model runner, in the place of LRUCacheWorkerLoRAManager, with the same methods."""

    host: HostMemory

    def __init__(self, vllm_config: Any, device: torch.device, embedding_modules: Mapping[str, str]) -> None:
        config = vllm_config.additional_config["polyad"]
        self._dtype: torch.dtype = vllm_config.lora_config.lora_dtype
        self._whole = vllm_config.parallel_config.pipeline_parallel_size == 1
        self._max_rank: int = config["max_rank"]
        self._slot_count: int = vllm_config.lora_config.max_loras
        self._backend: Backend = select(config["kernels"], device, self._dtype)
        self._batches = self._backend.batches(
            self._slot_count, vllm_config.scheduler_config.max_num_batched_tokens, device
        )
        self._step = Step(self._batches.of({}, ()))
        # Steps that are compiled or recorded run no Python of ours that could look at the batch.
        compilation = vllm_config.compilation_config
        self._compiled = compilation.static_forward_context if compilation.mode != CompilationMode.NONE else None
        self._seen: object = None
        # Of the compositions of the last step, each of which has an id of its own.
        self._weights: dict[int, Mapping[int, float]] = {}

    @property
    def backend(self) -> str:
        """The name of what computes."""
        return self._backend.name

    def create_lora_manager(self, model: Any, vllm_config: Any) -> Any:
        """Give the model's layers their slots; the model, as vLLM wants it back."""
        layers = adapt(model, self._slot_count, self._max_rank, self._backend, self._dtype, self._step, self._compiled)
        mapper = getattr(model, "hf_to_vllm_mapper", None)
        rename = mapper.get_rename_mapper().map_name if mapper is not None else str
        self.host = HostMemory(layers, self._dtype, rename, self._whole)
        self._slots = Slots(layers, self._slot_count)
        return model

    def set_active_adapters(self, requests: set[LoRARequest], mapping: LoRAMapping | None) -> None:
        """Prepare the step: `mapping` names the composition of each token."""
        if mapping is not None and mapping.type != LoRAMappingType.LANGUAGE:
            return
        self.host.step()
        known = self._weights
        compositions = self._weights = {
            request.lora_int_id: known.get(request.lora_int_id) or weights(request) for request in requests
        }
        needed = {engine_id for terms in compositions.values() for engine_id in terms}
        self._slots.hold({engine_id: self.host[engine_id] for engine_id in needed}, self.host.owners)
        if mapping is not None:
            seen = mapping.index_mapping, self._slots.revision
            if seen != self._seen:
                self._step.batch = self._batch(compositions, mapping.index_mapping)
                self._seen = seen

    def drop(self, engine_ids: list[int]) -> None:
        """Free the slots and the host memory of versions that no request uses."""
        for engine_id in engine_ids:
            self._slots.release(engine_id)
            self.host.drop(engine_id)

    def remove_all_adapters(self) -> None:
        """Empty the slots. What is in host memory is the front end's to say."""
        self._slots.clear()

    def list_adapters(self) -> set[int]:
        return set(self.host.versions)

    def supports_tower_connector_lora(self) -> bool:
        return False

    # vLLM warms up with adapters that have no weights; their tokens use no slot.

    @contextmanager
    def dummy_lora_cache(self) -> Iterator[None]:
        yield

    def add_dummy_lora(self, request: LoRARequest, rank: int) -> bool:
        return True

    def get_dummy_lora_warmup_rank(self, default: int) -> int:
        return default

    def _batch(self, compositions: Mapping[int, Mapping[int, float]], tokens: Sequence[int]) -> Batch:
        if self._compiled is not None and compositions and not any(compositions.values()):
            # vLLM warms up, or records a step, with adapters that have no weights.
            return self._batches.widest(len(tokens))
        slots = self._slots.versions if compositions else {}
        weighted = {
            composition: {slots[engine_id]: weight for engine_id, weight in terms.items()}
            for composition, terms in compositions.items()
        }
        return self._batches.of(weighted, tokens)
