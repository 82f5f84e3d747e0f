"""The canonical form of a version: what it changes in the base model, module by module (design.md section 3)."""

from polyad.adapters_store.delta.delta import Delta
from polyad.adapters_store.delta.dense_form import dense
from polyad.adapters_store.delta.grams import Grams
from polyad.adapters_store.delta.header import Header, TensorEntry, parse_header
from polyad.adapters_store.delta.inner_products import (
    inner_product,
    module_inner_product,
    module_inner_products,
    module_norm,
    norm,
)
from polyad.adapters_store.delta.low_rank import LowRank
from polyad.adapters_store.delta.module_delta import ModuleDelta
from polyad.adapters_store.delta.module_source import ModuleSource, TensorSource
from polyad.adapters_store.delta.reader import read_delta
from polyad.adapters_store.delta.recompression import Recompressed, recompress
from polyad.adapters_store.delta.sparse import Sparse
from polyad.adapters_store.delta.strict_json import strict_json
from polyad.adapters_store.delta.sums import module_sum, scale, weighted_sum
from polyad.adapters_store.delta.writer import write_delta, write_modules

__all__ = [
    "Delta",
    "ModuleDelta",
    "LowRank",
    "Sparse",
    "read_delta",
    "write_delta",
    "ModuleSource",
    "TensorSource",
    "write_modules",
    "dense",
    "scale",
    "weighted_sum",
    "module_sum",
    "inner_product",
    "norm",
    "module_inner_product",
    "module_inner_products",
    "module_norm",
    "Grams",
    "Recompressed",
    "recompress",
    "Header",
    "TensorEntry",
    "parse_header",
    "strict_json",
]
