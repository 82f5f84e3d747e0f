"""Triton kernels for the line of design.md section 3: one pass over A, and one over all that is added to y.

    V_e = X_tile A_slotᵀ                         for each entry e: a tile of tokens, and a slot that some of them use
    y_tile += sum over the tile's entries of w ⊙ [u ⊙ (y - b0) + V_e Bᵀ + X Sᵀ + c]

Tokens are sorted by the set of slots that they use, and cut into tiles; so a tile has few entries, whatever the
weights. A tile's sums stay in float32 registers and are rounded once. Every size of a launch is known without looking
at the batch; what varies is read from tensors, so that a captured graph serves every later batch.

Shape suffixes: B tokens of a tile, K input features of a block, R ranks of a block, O output features of a block.
"""

import triton
import triton.language as tl

# The layout of a slot's row; triton_layer.py writes it.
SLOT_RANKS: tl.constexpr = tl.constexpr(0)
SLOT_A: tl.constexpr = tl.constexpr(1)
SLOT_FIELDS: tl.constexpr = tl.constexpr(2)
TERM_RANK: tl.constexpr = tl.constexpr(0)
TERM_RANK_BEGIN: tl.constexpr = tl.constexpr(1)
TERM_B: tl.constexpr = tl.constexpr(2)
TERM_ROW_SCALE: tl.constexpr = tl.constexpr(3)
TERM_BIAS: tl.constexpr = tl.constexpr(4)
TERM_STARTS: tl.constexpr = tl.constexpr(5)
TERM_COLUMNS: tl.constexpr = tl.constexpr(6)
TERM_VALUES: tl.constexpr = tl.constexpr(7)
TERM_FIELDS: tl.constexpr = tl.constexpr(8)


@triton.jit
def shrink(
    x,
    x_stride,
    inputs,
    table,
    table_stride,
    tokens,  # sorted tokens; -1 behind the last
    entry_tiles,
    entry_slots,
    entry_count,
    v,  # [splits, entries, B, all ranks]
    v_split_stride,
    v_entry_stride,
    v_token_stride,
    split_inputs,
    B: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
):
    entry, block, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if entry >= tl.load(entry_count):
        return
    row = table + tl.load(entry_slots + entry).to(tl.int64) * table_stride
    ranks = tl.load(row + SLOT_RANKS)
    if block * R >= ranks:
        return
    a = tl.load(row + SLOT_A).to(tl.pointer_type(x.dtype.element_ty))
    token_B = tl.load(tokens + tl.load(entry_tiles + entry) * B + tl.arange(0, B)).to(tl.int64)
    rank_R = block * R + tl.arange(0, R).to(tl.int64)
    sum_BR = tl.zeros((B, R), dtype=tl.float32)
    end = tl.minimum((split + 1) * split_inputs, inputs)
    for begin in range(split * split_inputs, end, K):
        input_K = begin + tl.arange(0, K)
        inside_K = input_K < end
        x_BK = tl.load(
            x + token_B[:, None] * x_stride + input_K[None, :],
            mask=(token_B[:, None] >= 0) & inside_K[None, :],
            other=0.0,
        )
        a_KR = tl.load(
            a + rank_R[None, :] * inputs + input_K[:, None],
            mask=(rank_R[None, :] < ranks) & inside_K[:, None],
            other=0.0,
        )
        sum_BR += tl.dot(x_BK, a_KR, input_precision="ieee")
    at = v + split * v_split_stride + entry * v_entry_stride
    tl.store(at + tl.arange(0, B)[:, None] * v_token_stride + rank_R[None, :], sum_BR, mask=rank_R[None, :] < ranks)


@triton.jit
def expand(
    y,
    y_stride,
    x,
    x_stride,
    base_bias,
    table,
    table_stride,
    blocks,  # for each block of columns: its slice, its first column in the slice, the slice's width and begin
    tokens,
    weights,  # [tokens, slots]
    weights_stride,
    tile_begins,
    entry_slots,
    v,
    v_split_stride,
    v_entry_stride,
    v_token_stride,
    splits,
    HAS_BIAS: tl.constexpr,
    B: tl.constexpr,
    R: tl.constexpr,
    O: tl.constexpr,  # noqa: E741
):
    tile = tl.program_id(0)
    first, last = tl.load(tile_begins + tile), tl.load(tile_begins + tile + 1)
    if first == last:
        return
    block = blocks + tl.program_id(1) * 4
    slice_, column, width, begin = tl.load(block), tl.load(block + 1), tl.load(block + 2), tl.load(block + 3)
    token_B = tl.load(tokens + tile * B + tl.arange(0, B)).to(tl.int64)
    output_O = column + tl.arange(0, O)
    inside_BO = (token_B[:, None] >= 0) & (output_O[None, :] < width)
    y_BO = y + token_B[:, None] * y_stride + (begin + output_O)[None, :]
    was_BO = tl.load(y_BO, mask=inside_BO, other=0.0).to(tl.float32)
    product_BO = was_BO
    if HAS_BIAS:
        bias_O = tl.load(base_bias + begin + output_O, mask=output_O < width, other=0.0)
        product_BO = was_BO - bias_O.to(tl.float32)[None, :]
    sum_BO = tl.zeros((B, O), dtype=tl.float32)
    for entry in range(first, last):
        slot = tl.load(entry_slots + entry).to(tl.int64)
        terms = table + slot * table_stride + SLOT_FIELDS + slice_ * TERM_FIELDS
        weight_B = tl.load(weights + token_B * weights_stride + slot, mask=token_B >= 0, other=0.0)
        at = v + entry * v_entry_stride + tl.load(terms + TERM_RANK_BEGIN)
        change_BO = _low_rank(terms, at, v_split_stride, v_token_stride, splits, output_O, width, x, B, R, O)
        change_BO += _vectors(terms, product_BO, output_O, width)
        change_BO += _sparse(terms, x, x_stride, token_B, output_O, width, B, O)
        sum_BO += weight_B[:, None] * change_BO
    tl.store(y_BO, (was_BO + sum_BO).to(y.dtype.element_ty), mask=inside_BO)


@triton.jit
def _low_rank(
    terms,
    at,
    v_split_stride,
    v_token_stride,
    splits,
    output_O,
    width,
    x,
    B: tl.constexpr,
    R: tl.constexpr,
    O: tl.constexpr,  # noqa: E741
):
    change_BO = tl.zeros((B, O), dtype=tl.float32)
    rank = tl.load(terms + TERM_RANK)
    b = tl.load(terms + TERM_B).to(tl.pointer_type(x.dtype.element_ty))
    for begin in range(0, rank, R):
        rank_R = begin + tl.arange(0, R)
        v_BR = tl.zeros((B, R), dtype=tl.float32)
        for split in range(0, splits):
            v_BR += tl.load(
                at + split * v_split_stride + tl.arange(0, B)[:, None] * v_token_stride + rank_R[None, :],
                mask=rank_R[None, :] < rank,
                other=0.0,
            )
        b_RO = tl.load(
            b + output_O[None, :].to(tl.int64) * rank + rank_R[:, None],
            mask=(output_O[None, :] < width) & (rank_R[:, None] < rank),
            other=0.0,
        )
        change_BO += tl.dot(v_BR.to(b_RO.dtype), b_RO, input_precision="ieee")
    return change_BO


@triton.jit
def _vectors(terms, product_BO, output_O, width):
    change_BO = tl.zeros_like(product_BO)
    scale = tl.load(terms + TERM_ROW_SCALE)
    if scale != 0:
        scale_O = tl.load(scale.to(tl.pointer_type(tl.float32)) + output_O, mask=output_O < width, other=0.0)
        change_BO += scale_O[None, :] * product_BO
    bias = tl.load(terms + TERM_BIAS)
    if bias != 0:
        bias_O = tl.load(bias.to(tl.pointer_type(tl.float32)) + output_O, mask=output_O < width, other=0.0)
        change_BO += bias_O[None, :]
    return change_BO


@triton.jit
def _sparse(terms, x, x_stride, token_B, output_O, width, B: tl.constexpr, O: tl.constexpr):  # noqa: E741
    change_BO = tl.zeros((B, O), dtype=tl.float32)
    starts = tl.load(terms + TERM_STARTS)
    if starts != 0:
        start_O = starts.to(tl.pointer_type(tl.int32)) + output_O
        from_O = tl.load(start_O, mask=output_O < width, other=0)
        count_O = tl.load(start_O + 1, mask=output_O < width, other=0) - from_O
        columns = tl.load(terms + TERM_COLUMNS).to(tl.pointer_type(tl.int32))
        values = tl.load(terms + TERM_VALUES).to(tl.pointer_type(tl.float32))
        # One stored value of each row at a time.
        for stored in range(0, tl.max(count_O)):
            here_O = stored < count_O
            column_O = tl.load(columns + from_O + stored, mask=here_O, other=0)
            value_O = tl.load(values + from_O + stored, mask=here_O, other=0.0)
            x_BO = tl.load(
                x + token_B[:, None] * x_stride + column_O[None, :],
                mask=(token_B[:, None] >= 0) & here_O[None, :],
                other=0.0,
            )
            change_BO += value_O[None, :] * x_BO.to(tl.float32)
    return change_BO
