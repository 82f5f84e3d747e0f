"""What is left of an engine that died, in the process that served it."""

import ctypes
import gc

from vllm.tokenizers import cached_get_tokenizer
from vllm.utils.func_utils import _supports_kw
from vllm.utils.gc_utils import freeze_gc_heap


def forget_engines() -> None:
    """Let the memory of engines that died be given back: 50 MB for a vocabulary of 49,000 tokens.

    vLLM keeps a tokenizer for the next engine, which makes pools of copies of it, of the pools of the last one too, and
    remembers the methods of each. It has also told Python never to look for garbage among what its first start made.
    """
    cached_get_tokenizer.cache_clear()
    _supports_kw.cache_clear()
    gc.unfreeze()


def collect_remains() -> None:
    """The next engine is up: look for garbage once more, and never again among what is in use now.

    Not when the last one died: what its requests still held then would be kept for ever. What is free then lies in
    pieces between what is not, 55 MB for each engine; glibc gives it back to the system only if it is told to.
    """
    freeze_gc_heap()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
