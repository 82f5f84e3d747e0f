def supported(in_pairs: bool, /) -> dict[str, int]: ...
def apply(
    lanes: int,
    together: int,
    layer: int,
    slots: int,
    groups: int,
    group_count: int,
    tokens: int,
    y: int,
    y_stride: int,
    x: int,
    x_stride: int,
    base_bias: int,
    /,
) -> None: ...
def lay(
    lanes: int, together: int, panels: int, begin: int, rows: int, row_count: int, depth: int, stride: int, size: int, /
) -> None: ...
