"""How large an adapter may be."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    max_rank: int
    max_bytes: int = 512 * 2**20
    max_config_bytes: int = 2**20
    max_header_bytes: int = 4 * 2**20
    max_tensors: int = 20_000
