"""How large an adapter may be."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """`max_bytes` bounds each file that is sent, `max_delta_bytes` what it is converted to.

    `max_rank` and the sparse values hold for the converted adapter too; `max_sparse_values` for one module.
    """

    max_rank: int
    max_bytes: int = 512 * 2**20
    max_delta_bytes: int = 2 * 2**30
    max_sparse_values: int = 8 * 2**20
    max_sparse_values_in_all: int = 128 * 2**20
    max_config_bytes: int = 2**20
    max_header_bytes: int = 4 * 2**20
    max_tensors: int = 20_000
