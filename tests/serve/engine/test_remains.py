import copy
import gc
from pathlib import Path

import psutil
from vllm.tokenizers import cached_get_tokenizer
from vllm.tokenizers.hf import maybe_make_thread_pool
from vllm.utils.func_utils import supports_kw
from vllm.utils.gc_utils import freeze_gc_heap

from polyad.serve.engine.remains import collect_remains, forget_engines


def tokenizers() -> int:
    """Those that vLLM made and that are still there."""
    gc.unfreeze()
    return sum(type(one).__name__.startswith(("CachedTokenizer", "TokenizerPool")) for one in gc.get_objects())


def test_tokenizers_of_engines_that_died_are_forgotten(base_model: Path) -> None:
    """As vLLM makes and uses them for one engine after another."""
    forget_engines()
    collect_remains()
    before = tokenizers()
    for _ in range(3):
        kept = cached_get_tokenizer(str(base_model))
        pooled = maybe_make_thread_pool(copy.copy(kept))
        assert supports_kw(pooled.apply_chat_template, "tokenize")
        freeze_gc_heap()
        assert tokenizers() > before
        # A request of the engine that died has not ended yet.
        forget_engines()
        assert tokenizers() > before
        del kept, pooled
        collect_remains()
    assert tokenizers() == before


def test_memory_that_is_free_in_pieces_is_given_back() -> None:
    """Pieces that are small enough for the heap, and here and there one that is in use, so that it cannot shrink."""
    process = psutil.Process()
    pieces = [bytearray(b"x" * 60_000) for _ in range(4000)]
    in_use = pieces[::50]
    used = process.memory_info().rss
    del pieces
    held = used - process.memory_info().rss
    collect_remains()
    given_back = used - process.memory_info().rss
    assert len(in_use) == 80
    assert held < 60_000_000
    assert given_back > 180_000_000
