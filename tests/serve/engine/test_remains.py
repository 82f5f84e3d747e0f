import copy
import gc
from pathlib import Path

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
