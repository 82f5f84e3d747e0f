"""The Triton kernels of fusion. One program walks along the vocabulary of one stream, or of one group's candidates.

Rows of a group lie at `rows[group, stream]`, a stream that a group does not have at -1. A token that is masked in one
stream of a group has no part in any sum. Shape suffixes: V a block of the vocabulary, K candidates.
"""

import triton
import triton.language as tl

MASKED = tl.constexpr(-1e30)


@triton.jit
def _read(logits, stride, row, token_V, vocabulary, scale):
    """A block of a stream's logits in float32; -inf where masked, or behind the end."""
    value_V = tl.load(logits + row.to(tl.int64) * stride + token_V, mask=token_V < vocabulary, other=-float("inf"))
    value_V = value_V.to(tl.float32)
    return tl.where(value_V <= MASKED, -float("inf"), value_V * scale)


@triton.jit
def _kept(logits, stride, rows, token_V, vocabulary, scale, STREAMS: tl.constexpr):
    """Which tokens no stream of the group masks."""
    kept_V = token_V < vocabulary
    for stream in range(STREAMS):
        row = tl.load(rows + stream)
        if row >= 0:
            kept_V = kept_V & (_read(logits, stride, row, token_V, vocabulary, scale) > -float("inf"))
    return kept_V


@triton.jit
def combine(
    logits,
    stride,
    rows,
    weights,
    uses,
    scales,
    least,
    out,
    vocabulary,
    STREAMS: tl.constexpr,
    V: tl.constexpr,
):
    """out = sum of weight * logits over the streams that are used, -inf where one masks or the first is below least."""
    group = tl.program_id(0)
    token_V = tl.program_id(1) * V + tl.arange(0, V)
    scale = tl.load(scales + group)
    sum_V = tl.zeros((V,), dtype=tl.float32)
    masked_V = token_V >= vocabulary
    for stream in range(STREAMS):
        row = tl.load(rows + group * STREAMS + stream)
        if row >= 0:
            value_V = _read(logits, stride, row, token_V, vocabulary, scale)
            if stream == 0:
                masked_V = masked_V | (value_V < tl.load(least + group))
            if tl.load(uses + group * STREAMS + stream) != 0:
                gone_V = value_V == -float("inf")
                masked_V = masked_V | gone_V
                sum_V += tl.load(weights + group * STREAMS + stream) * tl.where(gone_V, 0.0, value_V)
    result_V = tl.where(masked_V, -float("inf"), sum_V)
    tl.store(out + group.to(tl.int64) * vocabulary + token_V, result_V, mask=token_V < vocabulary)


@triton.jit
def statistics(logits, stride, rows, scales, out, vocabulary, STREAMS: tl.constexpr, V: tl.constexpr):
    """For each stream: its highest logit and difference to the base; sum e^l, sum e^l d, and sum e^l0 d, shifted."""
    group, stream = tl.program_id(0), tl.program_id(1)
    row = tl.load(rows + group * STREAMS + stream)
    if row < 0:
        return
    base_row, scale = tl.load(rows + group * STREAMS), tl.load(scales + group)
    top, base_top, widest = -float("inf"), -float("inf"), -float("inf")
    for begin in range(0, vocabulary, V):
        token_V = begin + tl.arange(0, V)
        kept_V = _kept(logits, stride, rows + group * STREAMS, token_V, vocabulary, scale, STREAMS)
        own_V = _read(logits, stride, row, token_V, vocabulary, scale)
        base_V = _read(logits, stride, base_row, token_V, vocabulary, scale)
        top = tl.maximum(top, tl.max(tl.where(kept_V, own_V, -float("inf"))))
        base_top = tl.maximum(base_top, tl.max(tl.where(kept_V, base_V, -float("inf"))))
        apart_V = tl.where(kept_V, own_V, 0.0) - tl.where(kept_V, base_V, 0.0)
        widest = tl.maximum(widest, tl.max(tl.where(kept_V, apart_V, -float("inf"))))
    total, product, by_base = 0.0, 0.0, 0.0
    for begin in range(0, vocabulary, V):
        token_V = begin + tl.arange(0, V)
        kept_V = _kept(logits, stride, rows + group * STREAMS, token_V, vocabulary, scale, STREAMS)
        own_V = tl.where(kept_V, _read(logits, stride, row, token_V, vocabulary, scale), 0.0)
        base_V = tl.where(kept_V, _read(logits, stride, base_row, token_V, vocabulary, scale), 0.0)
        weight_V = tl.where(kept_V, tl.exp(own_V - top), 0.0)
        total += tl.sum(weight_V)
        product += tl.sum(weight_V * (own_V - base_V))
        by_base += tl.sum(tl.where(kept_V, tl.exp(base_V - base_top), 0.0) * (own_V - base_V))
    place = out + (group * STREAMS + stream) * 5
    tl.store(place, top)
    tl.store(place + 1, widest)
    tl.store(place + 2, total)
    tl.store(place + 3, product)
    tl.store(place + 4, by_base)


@triton.jit
def _start(logits, stride, rows, weights, token_V, vocabulary, scale, expert, low, widest, STREAMS: tl.constexpr):
    """Where an expert's candidates begin: the fused logit at `low`, d less its widest, and the others' part."""
    kept_V = _kept(logits, stride, rows, token_V, vocabulary, scale, STREAMS)
    base_V = tl.where(kept_V, _read(logits, stride, tl.load(rows), token_V, vocabulary, scale), 0.0)
    others_V = tl.zeros_like(base_V)
    own_V = tl.zeros_like(base_V)
    for stream in range(1, STREAMS):
        row = tl.load(rows + stream)
        if row >= 0:
            value_V = tl.where(kept_V, _read(logits, stride, row, token_V, vocabulary, scale), 0.0) - base_V
            if stream == expert:
                own_V = tl.where(kept_V, value_V - widest, 0.0)
            else:
                others_V += tl.load(weights + stream) * value_V
    start_V = tl.where(kept_V, base_V + others_V + low * own_V, -float("inf"))
    return start_V, own_V, others_V


@triton.jit
def sweep(
    logits,
    stride,
    rows,
    weights,
    scales,
    lows,
    steps,
    widest,
    out,
    vocabulary,
    expert,
    STREAMS: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
):
    """For all candidates of one expert in each group: sum of weights, of weights d, of weights u; then the shift."""
    group = tl.program_id(0)
    rows += group * STREAMS
    if tl.load(rows + expert) < 0:
        return
    weights += group * STREAMS
    scale, low, step = tl.load(scales + group), tl.load(lows + group), tl.load(steps + group)
    most = tl.load(widest + group * STREAMS + expert)
    top = -float("inf")
    for begin in range(0, vocabulary, V):
        token_V = begin + tl.arange(0, V)
        start_V, _own_V, _others_V = _start(
            logits, stride, rows, weights, token_V, vocabulary, scale, expert, low, most, STREAMS
        )
        top = tl.maximum(top, tl.max(start_V))
    candidate_K = tl.arange(0, K)
    total_K = tl.zeros((K,), dtype=tl.float32)
    own_K = tl.zeros((K,), dtype=tl.float32)
    others_K = tl.zeros((K,), dtype=tl.float32)
    for begin in range(0, vocabulary, V):
        token_V = begin + tl.arange(0, V)
        start_V, own_V, others_V = _start(
            logits, stride, rows, weights, token_V, vocabulary, scale, expert, low, most, STREAMS
        )
        weight_KV = tl.exp((start_V - top)[None, :] + (candidate_K * step)[:, None] * own_V[None, :])
        total_K += tl.sum(weight_KV, 1)
        own_K += tl.sum(weight_KV * own_V[None, :], 1)
        others_K += tl.sum(weight_KV * others_V[None, :], 1)
    place_K = out + group * 4 * K + candidate_K
    tl.store(place_K, total_K)
    tl.store(place_K + K, own_K)
    tl.store(place_K + 2 * K, others_K)
    tl.store(place_K + 3 * K, tl.zeros((K,), dtype=tl.float32) + top)
