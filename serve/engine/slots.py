"""Slots: the device-resident places that versions are copied into when a batch needs them."""

import sys
from collections.abc import Collection
from typing import Any

from vllm.lora.lora_model import LoRAModel
from vllm.lora.lora_weights import LoRALayerWeights
from vllm.lora.model_manager import LRUCacheLoRAModelManager

from polyad.serve.engine.punica import SlotWrapper


class SlotManager(LRUCacheLoRAModelManager):
    """vLLM's adapter manager with three differences.

    The number of versions in host memory is the front end's business; a slot belongs to a version only once all of its
    weights are in; modules that a version leaves alone are zeroed only if the slot's former owner had touched them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._touched: dict[int, set[str]] = {}
        super().__init__(*args, **kwargs)

    @property
    def capacity(self) -> int:
        return sys.maxsize

    @property
    def registered(self) -> Collection[int]:
        """The engine ids in host memory."""
        return self._registered_adapters.order

    def pack(self, model: LoRAModel) -> None:
        """Bring a version's weights into the engine's fused layout. Safe outside the engine's thread."""
        self._create_merged_loras_inplace(model)

    def register(self, model: LoRAModel) -> None:
        """Take a packed version into host memory."""
        self._registered_adapters[model.id] = model

    def activate(self, engine_ids: set[int]) -> None:
        """Put these versions into slots, evicting the least recently used of the others."""
        missing = [engine_id for engine_id in engine_ids if engine_id not in self._active_adapters]
        for engine_id in engine_ids.difference(missing):
            self._active_adapters.touch(engine_id)
        for engine_id in missing:
            self.activate_adapter(engine_id)

    def activate_adapter(self, lora_id: int) -> bool:
        if lora_id in self._active_adapters:
            self._active_adapters.touch(lora_id)
            return False
        model = self._registered_adapters.cache[lora_id]
        if len(self._active_adapters) >= self.lora_slots:
            self._active_adapters.remove_oldest()
        slot = self.lora_index_to_id.index(None)
        self._fill(slot, model)
        self.lora_index_to_id[slot] = lora_id
        self._active_adapters[lora_id] = None
        return True

    def _fill(self, slot: int, model: LoRAModel) -> None:
        touched = self._touched.setdefault(slot, set())
        for name, module in self.modules.items():
            weights = self._get_lora_layer_weights(model, name)
            if weights is not None:
                touched.add(name)
                module.set_lora(slot, weights.lora_a, weights.lora_b)
            elif name in touched:
                touched.remove(name)
                module.reset_lora(slot)
            else:
                continue
            _tell_ranks(module, slot, weights)


def _tell_ranks(module: Any, slot: int, weights: LoRALayerWeights | None) -> None:
    if not isinstance(module.punica_wrapper, SlotWrapper):
        return
    factors = weights.lora_a if weights is not None else None
    if not isinstance(factors, list):
        factors = [factors] * len(module.lora_a_stacked)
    for stacked, factor in zip(module.lora_a_stacked, factors, strict=True):
        module.punica_wrapper.set_rank(stacked, slot, 0 if factor is None else factor.shape[0])
