"""What Fisher averaging and RegMean must know of an input, measured while its model reads examples, and kept in a file.

Shape suffixes: T tokens, O output features, I input features.

- `fisher`: the diagonal Fisher information of W (and b): for each example the gradient of its log-likelihood, squared,
  and then the mean over the examples. dL/dW of one example is the sum over its tokens of delta x', so it is squared
  example by example and not kept.
- `gram`: X'X / T, of all inputs that a linear layer got.
- `graft`: which elements of the input's change its task needs, bool; serve/learn/graft.py finds them.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from polyad.adapters_store.errors import InvalidInput

Kind = Literal["fisher", "gram", "graft"]

_FORMAT = "polyad.statistics/1"
# Fisher information spans many orders of magnitude and is a weight in a mean: of its digits, the first ones count.
_DTYPES = {"fisher": torch.bfloat16, "gram": torch.float32}


class Sums(dict[str, torch.Tensor]):
    """Sums by tensor, in float32."""

    def add(self, name: str, term: torch.Tensor) -> None:
        if name in self:
            self[name].add_(term)
        else:
            self[name] = term.to(torch.float32)


class Means:
    """Fisher information or Gram matrices in the making, of some linear layers of a model. Each example is one forward
    pass within `watching`; for `fisher`, followed by `backward` of its log-likelihood, alone in its batch.
    """

    def __init__(self, kind: Kind, layers: Mapping[str, torch.nn.Module]) -> None:
        self.kind = kind
        self._layers = layers
        self._sums = Sums()
        self._examples = 0
        self._tokens: dict[str, int] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within it, one example goes through the model."""
        hook = self._keep_gradients if self.kind == "fisher" else self._keep_inputs
        with ExitStack() as hooks:
            for name, layer in self._layers.items():
                hooks.callback(layer.register_forward_hook(_of(name, hook)).remove)
            yield
        self._examples += 1

    def tensors(self) -> dict[str, torch.Tensor]:
        """What was measured, by module; Fisher information of biases by module.bias. Raises InvalidInput if nothing."""
        if not self._examples:
            raise InvalidInput("examples", 0, "at least one")
        over = {
            name: max(self._tokens.get(name, 0), 1) if self.kind == "gram" else self._examples for name in self._sums
        }
        return {name: (total / over[name]).to(_DTYPES[self.kind]) for name, total in self._sums.items()}

    def _keep_inputs(self, name: str, inputs: torch.Tensor, output: torch.Tensor) -> None:
        x_TI = inputs.detach().flatten(0, -2).to(torch.float32)
        self._sums.add(name, x_TI.t() @ x_TI)
        self._tokens[name] = self._tokens.get(name, 0) + len(x_TI)

    def _keep_gradients(self, name: str, inputs: torch.Tensor, output: torch.Tensor) -> None:
        x_TI = inputs.detach().flatten(0, -2).to(torch.float32)

        def keep(gradient: torch.Tensor) -> None:
            delta_TO = gradient.detach().flatten(0, -2).to(torch.float32)
            self._sums.add(name, (delta_TO.t() @ x_TI).square_())
            self._sums.add(f"{name}.bias", delta_TO.sum(0).square_())

        output.register_hook(keep)  # type: ignore[no-untyped-call]


class StatisticsFile(Mapping[str, torch.Tensor]):
    """A file of statistics; a tensor is read when it is asked for. Raises InvalidInput for another kind's file."""

    def __init__(self, path: Path, kind: str) -> None:
        self.path = path
        opened: Any = safe_open
        try:
            self._file = opened(path, "pt")
        except (OSError, SafetensorError) as error:
            raise InvalidInput("statistics", str(path), f"a safetensors file of {kind} statistics ({error})") from error
        found = (self._file.metadata() or {}).get("kind", kind)
        if found != kind:
            raise InvalidInput("statistics", f"{path}: {found}", f"{kind} statistics")
        self._names = frozenset(self._file.keys())

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._names:
            raise KeyError(name)
        found: torch.Tensor = self._file.get_tensor(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def file_name(kind: str) -> str:
    """Where the statistics of an adapter lie, in its folder."""
    return f"{kind}.safetensors"


def write_statistics(kind: Kind, tensors: Mapping[str, torch.Tensor], path: Path, about: Mapping[str, str]) -> None:
    """Write what was measured, whole or not at all; `about` says how."""
    written = {name: tensor.contiguous().cpu() for name, tensor in sorted(tensors.items())}
    partial = path.with_name(f".{path.name}.partial")
    try:
        save_file(written, partial, {"format": _FORMAT, "kind": kind, **about})
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _of(name: str, hook: Callable[[str, torch.Tensor, torch.Tensor], None]) -> Callable[[Any, Any, Any], None]:
    return lambda layer, inputs, output: hook(name, inputs[0], output)
