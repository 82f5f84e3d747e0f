"""A model that can be one version or another, and the bare base: what it says, and what it thinks of what was said."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from polyad.adapters_store.delta import Delta
from polyad.serve.learn.data import Prompt
from polyad.serve.learn.train.log_probs import log_probs, sums
from polyad.serve.learn.train.parent import delta_of, load
from polyad.serve.learn.train.tokens import Encoder, Row

_BATCH = 8


class Speaker:
    """Speaks as the adapter that is in `model` now. Before each batch it asks `check`, which raises to end the work."""

    def __init__(
        self, model: Any, encoder: Encoder, max_new_tokens: int = 64, check: Callable[[], None] = lambda: None
    ) -> None:
        self.model = model
        self.encoder = encoder
        self._max_new_tokens = max_new_tokens
        self._check = check

    @contextmanager
    def as_version(self, delta: Delta) -> Iterator["Speaker"]:
        """Within, it is another version, of the same shapes."""
        now = delta_of(self.model)
        load(self.model, delta)
        try:
            yield self
        finally:
            load(self.model, now)

    @contextmanager
    def as_base(self) -> Iterator["Speaker"]:
        """Within, it is the base model."""
        with self.model.disable_adapter():
            yield self

    def log_prob(self, prompt: Prompt, answer: str) -> tuple[float, int]:
        """The natural logarithm of the answer's probability, and how many tokens it has."""
        row = self.encoder.row(prompt, answer, False)
        return float(self.sums([row])[0]), len(row.answer)

    def sums(self, rows: Sequence[Row]) -> torch.Tensor:
        """The log-probability of each row's answer, [N]."""
        return sums(self.model, rows, self.encoder.padding, _BATCH, self._check)

    def logits(self, row: Row) -> torch.Tensor:
        """What predicts each token of the row's answer, [tokens, vocabulary]."""
        self._check()
        with torch.no_grad():
            return log_probs(self.model, [row], self.encoder.padding).logits_NAV[0]

    def answers(self, prompt: Prompt, count: int, temperature: float) -> list[str]:
        """What it says itself; with temperature 0 the same each time."""
        chosen = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
        return self._say([prompt] * count, chosen)

    def greedy(self, prompts: Sequence[Prompt]) -> list[str]:
        """Its likeliest answer to each prompt, token by token."""
        said: list[str] = []
        for start in range(0, len(prompts), _BATCH):
            said += self._say(prompts[start : start + _BATCH], {"do_sample": False})
        return said

    def _say(self, prompts: Sequence[Prompt], chosen: dict[str, Any]) -> list[str]:
        self._check()
        ids = [self.encoder.prompt(prompt) for prompt in prompts]
        longest = max(map(len, ids))
        device = next(self.model.parameters()).device
        padded = torch.tensor([[self.encoder.padding] * (longest - len(one)) + list(one) for one in ids], device=device)
        real = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in ids], device=device)
        self.model.eval()
        with torch.no_grad():
            made = self.model.generate(
                input_ids=padded,
                attention_mask=real,
                max_new_tokens=self._max_new_tokens,
                pad_token_id=self.encoder.padding,
                **chosen,
            )
        decoded = self.encoder.tokenizer.batch_decode(made[:, longest:], skip_special_tokens=True)
        return [str(text).strip() for text in decoded]
