import copy
import weakref
from pathlib import Path

from vllm.tokenizers import cached_get_tokenizer
from vllm.tokenizers.hf import maybe_make_thread_pool
from vllm.utils.func_utils import supports_kw
from vllm.utils.gc_utils import freeze_gc_heap

from polyad.serve.engine.remains import forget_engines


def test_tokenizers_of_engines_that_died_are_forgotten(base_model: Path) -> None:
    """As vLLM makes and uses them for one engine after another."""
    of_engines = []
    for _ in range(3):
        kept = cached_get_tokenizer(str(base_model))
        pooled = maybe_make_thread_pool(copy.copy(kept))
        assert supports_kw(pooled.apply_chat_template, "tokenize")
        of_engines += [weakref.ref(kept), weakref.ref(pooled)]
        freeze_gc_heap()
        del kept, pooled
        forget_engines()
    assert [reference() for reference in of_engines] == [None] * 6
