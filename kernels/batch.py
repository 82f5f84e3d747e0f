"""Which slots the tokens of a batch use, and with which weights.

Shape suffixes: T tokens, S slots, C compositions, G tokens of one group.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class Group:
    """The tokens that use one slot: int32, ascending; and their weights, float32."""

    slot: int
    tokens_G: torch.Tensor
    weights_G: torch.Tensor


class Batch:
    """One step's tokens. `mask` has a bit for each slot that some token uses.

    `recorded` is for launches that will be replayed for other batches: nothing may depend on this one.
    """

    recorded = False

    def __init__(self, weights_TS: torch.Tensor) -> None:
        self.weights_TS = weights_TS
        self.tokens, self.slots = weights_TS.shape
        self.groups = [
            Group(slot, tokens.int(), weights_TS[tokens, slot])
            for slot in weights_TS.any(0).nonzero().flatten().tolist()
            for tokens in [weights_TS[:, slot].nonzero().flatten()]
        ]
        self.mask = sum(1 << group.slot for group in self.groups)


class Batches:
    """Makes one step's batch after another, of at most `max_tokens` tokens."""

    def __init__(self, slots: int, max_tokens: int, device: torch.device) -> None:
        self._slots = slots

    def of(self, compositions: Mapping[int, Mapping[int, float]], token_ids: Sequence[int]) -> Batch:
        """From the composition that each token names, and the weight of each slot in each composition.

        A token whose composition is not among them uses no slot.
        """
        weights_CS = torch.zeros(len(compositions) + 1, self._slots)
        rows: dict[int, int] = {}
        for row, (composition, weights) in enumerate(compositions.items(), 1):
            rows[composition] = row
            for slot, weight in weights.items():
                weights_CS[row, slot] = weight
        return self.weighted(weights_CS[torch.tensor([rows.get(token, 0) for token in token_ids], dtype=torch.int64)])

    def widest(self, tokens: int) -> Batch:
        """For launches that are recorded, where the implementation can: what any batch of so many tokens needs."""
        return self.weighted(torch.zeros(tokens, self._slots))

    def weighted(self, weights_TS: torch.Tensor) -> Batch:
        """From the weight of each slot for each token: float32 on the CPU."""
        return Batch(weights_TS)
