def supported() -> dict[str, int]: ...
def above(lanes: int, source: bytes, low: float, where: int, values: int, /) -> None: ...
def band(lanes: int, source: bytes, dropped: int, kept: int, where: int, values: int, /) -> tuple[float, float]: ...
def random(lanes: int, source: bytes, key: int, limit: int, where: int, values: int, /) -> tuple[float, float]: ...
def most(lanes: int, rows: bytes, count: int, n: int, /) -> int: ...
def combine(
    lanes: int,
    rows: bytes,
    count: int,
    divide: int,
    elect: bool,
    weighted: bool,
    frequency: bool,
    zero_is_positive: bool,
    scale: float,
    n: int,
    indices: int,
    wide: bool,
    out: int,
    /,
) -> tuple[int, float]: ...
