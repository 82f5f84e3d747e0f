"""LoRA-GGPO: noise on the weights while training, larger where weights and gradients are, to find flat minima.

y += x Eᵀ, E_ij ~ N(0, 1) (sigma n_i + beta g_i²) / sqrt(O), without gradient through E. n_i² = (mean row norm of W)² +
||(B A)_i||², g_i = ||s (B dA + dB A)_i|| of the last backward pass. One E a step, for all of its tokens.
Shape suffixes: I input features, O output features, R rank.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from polyad.serve.learn.train.options.option import Option, Training, Values
from polyad.serve.learn.train.parent import NAME

_SAMPLED_ROWS = 1000


@dataclass
class Ggpo(Option):
    defaults: ClassVar[Values] = {"sigma": 0.03, "beta": 0.01}
    _layers: dict[str, Any] = field(default_factory=dict)
    _norms: dict[str, float] = field(default_factory=dict)
    _gradients: dict[str, torch.Tensor] = field(default_factory=dict)
    _noise: dict[str, torch.Tensor] = field(default_factory=dict)

    def begin(self, training: Training) -> None:
        for name, layer in training.model.named_modules():
            if hasattr(layer, "lora_A") and NAME in layer.lora_A:
                self._layers[name] = layer
                weight = layer.get_base_layer().weight[:_SAMPLED_ROWS].detach()
                self._norms[name] = float(weight.float().norm(dim=1).mean())
                layer.register_forward_hook(lambda _, given, out, name=name: self._noisy(name, given[0], out))

    def before_forward(self, training: Training, step: int) -> None:
        generator = torch.Generator().manual_seed(hash((training.seed, step)) & 0x7FFFFFFF)
        for name, layer in self._layers.items():
            a_RI, b_OR = layer.lora_A[NAME].weight.detach(), layer.lora_B[NAME].weight.detach()
            change = _row_norms(b_OR, a_RI) * layer.scaling[NAME]
            rows = (change**2 + self._norms[name] ** 2).sqrt()
            gradients = self._gradients.get(name, torch.zeros_like(rows))
            size = float(self.values["sigma"]) * rows + float(self.values["beta"]) * gradients**2
            size = size / len(rows) ** 0.5
            noise = torch.randn(len(rows), a_RI.shape[1], generator=generator)
            self._noise[name] = noise.to(size) * size[:, None]

    def after_forward(self, training: Training) -> None:
        self._noise.clear()
        for name, layer in self._layers.items():
            a, b = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
            if a.grad is not None and b.grad is not None:
                both = torch.cat((b.detach(), b.grad), 1), torch.cat((a.grad, a.detach()))
                self._gradients[name] = _row_norms(*both) * layer.scaling[NAME]

    def _noisy(self, name: str, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        noise_OI = self._noise.get(name)
        return out if noise_OI is None else out + (x.to(noise_OI.dtype) @ noise_OI.t()).to(out.dtype)


def _row_norms(b_OR: torch.Tensor, a_RI: torch.Tensor) -> torch.Tensor:
    """[O], the norms of the rows of B A, without forming it."""
    return ((b_OR @ (a_RI @ a_RI.t())) * b_OR).sum(1).clamp(min=0).sqrt()
