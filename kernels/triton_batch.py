"""A batch as the Triton kernels read it: tokens sorted by the slots that they use, cut into tiles.

Shape suffixes: T tokens, S slots, N tiles, E entries; an entry is a tile and a slot that some of its tokens use.
"""

import torch

from polyad.kernels.batch import Batch, Batches

TILE = 16


class TritonBatch(Batch):
    """One step's tokens, in tensors on the device that the next step's batch writes anew.

    Launches for a batch can be replayed for any other of at most as many tokens: `tile_count` and `entry_count` bound
    them, and what the batch really has is in the tensors.
    """

    def __init__(self, weights_TS: torch.Tensor, batches: "TritonBatches") -> None:
        super().__init__(weights_TS)
        self.tensors = batches
        self.tile_count, self.entry_count = batches.write(weights_TS)


class WidestBatch(TritonBatch):
    """For launches that are recorded: as many tiles and entries as a batch of so many tokens can have; it uses none."""

    recorded = True

    def __init__(self, tokens: int, batches: "TritonBatches") -> None:
        super().__init__(torch.zeros(tokens, batches.slots), batches)
        self.tile_count = -(-tokens // TILE)
        self.entry_count = self.tile_count * batches.slots
        self.mask = (1 << batches.slots) - 1


class TritonBatches(Batches):
    """The tensors: int32, and `weights_TS` float32."""

    def __init__(self, slots: int, max_tokens: int, device: torch.device) -> None:
        super().__init__(slots, max_tokens, device)
        tiles = -(-max_tokens // TILE)
        self.slots = slots
        self.tokens_T = torch.full((tiles * TILE,), -1, dtype=torch.int32, device=device)
        self.begins_N = torch.zeros(tiles + 1, dtype=torch.int32, device=device)
        self.entry_tiles_E = torch.zeros(tiles * slots, dtype=torch.int32, device=device)
        self.entry_slots_E = torch.zeros(tiles * slots, dtype=torch.int32, device=device)
        self.entry_count = torch.zeros(1, dtype=torch.int32, device=device)
        self.weights_TS = torch.zeros(max_tokens, slots, device=device)

    def weighted(self, weights_TS: torch.Tensor) -> Batch:
        return TritonBatch(weights_TS, self)

    def widest(self, tokens: int) -> Batch:
        return WidestBatch(tokens, self)

    def write(self, weights_TS: torch.Tensor) -> tuple[int, int]:
        """Put a batch in; the number of its tiles and entries. Nothing waits for the device."""
        sorted_T = _sorted_by_slots(weights_TS)
        padding = -len(sorted_T) % TILE
        tokens_T = torch.cat([sorted_T, torch.full((padding,), -1)])
        used_NS = ((weights_TS != 0)[tokens_T] & (tokens_T >= 0).unsqueeze(1)).view(-1, TILE, self.slots).any(1)
        entries_E2 = used_NS.nonzero()
        # Tiles that the batch does not have begin where they end.
        begins_N = torch.full((len(self.begins_N),), len(entries_E2))
        begins_N[0] = 0
        begins_N[1 : len(used_NS) + 1] = used_NS.sum(1).cumsum(0)
        for tensor, value in (
            (self.tokens_T, tokens_T),
            (self.begins_N, begins_N),
            (self.entry_tiles_E, entries_E2[:, 0]),
            (self.entry_slots_E, entries_E2[:, 1]),
            (self.entry_count, torch.tensor([len(entries_E2)])),
            (self.weights_TS, weights_TS),
        ):
            _copy(tensor, value)
        return len(used_NS), len(entries_E2)


def _copy(tensor: torch.Tensor, value: torch.Tensor) -> None:
    value = value.to(tensor.dtype).contiguous()
    source = value.pin_memory() if tensor.device.type == "cuda" else value
    tensor[: len(value)].copy_(source, non_blocking=True)


def _sorted_by_slots(weights_TS: torch.Tensor) -> torch.Tensor:
    """The tokens that use a slot, those with the same set of slots side by side."""
    used_TS = weights_TS != 0
    _, set_T = torch.unique(used_TS, dim=0, return_inverse=True)
    order_T = torch.argsort(set_T, stable=True)
    return order_T[used_TS[order_T].any(1)]
