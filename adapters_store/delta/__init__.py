"""The canonical form of a version: what it adds to the base model, module by module (design.md section 3)."""

from polyad.adapters_store.delta.delta import Delta
from polyad.adapters_store.delta.header import Header, TensorEntry, parse_header
from polyad.adapters_store.delta.low_rank import LowRank
from polyad.adapters_store.delta.module_delta import ModuleDelta
from polyad.adapters_store.delta.reader import read_delta
from polyad.adapters_store.delta.sparse import Sparse
from polyad.adapters_store.delta.strict_json import strict_json
from polyad.adapters_store.delta.writer import FactorSource, write_delta, write_factors

__all__ = [
    "Delta",
    "LowRank",
    "ModuleDelta",
    "Sparse",
    "read_delta",
    "write_delta",
    "FactorSource",
    "write_factors",
    "Header",
    "TensorEntry",
    "parse_header",
    "strict_json",
]
