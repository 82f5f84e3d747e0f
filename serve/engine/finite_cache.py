"""Keeps what is no number out of the key-value cache, which one request leaves to the next.

An adapter's factors are finite, their product with an activation may not be; then the values of its request's tokens
are not either. vLLM does not clear a block before another request has it, and its CPU attention multiplies the unused
rest of a block by weights of zero, which does not make a number of what is none: the other request's answer, and what
it leaves in turn, would be lost too.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any


class FiniteCacheRunner:
    """Mixed into vLLM's model runner V1."""

    compilation_config: Any

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        runner: Any = super()
        runner.load_model(*args, **kwargs)
        for layer in self.compilation_config.static_forward_context.values():
            attention: Any = getattr(layer, "impl", None)
            if hasattr(attention, "do_kv_cache_update"):
                attention.do_kv_cache_update = finite(attention.do_kv_cache_update)


def finite(update: Callable[..., None]) -> Callable[..., None]:
    """The writing of keys and values into the cache, with values that are numbers. Keys lie behind the mask."""

    @wraps(update)
    def written(layer: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> None:
        update(layer, key, value.nan_to_num(), *args, **kwargs)

    return written
