"""Triton kernels of criss-cross attention along one axis; :mod:`.triton` launches them axis by axis.

A *line* is the set of positions along one axis, the three other coordinates (batch included) fixed. A tile of BLOCK
slots contains a part of one long line or, if PACKED, several short lines side by side, masked against each other, so
that five frames fill a tile as well as a hundred columns do. The rows of a product are the slots that a program owns
and writes, the columns are the slots that it loops over. No two programs write to the same memory, so results do not
depend on the order in which programs run.

Scores, softmax and sums are float32. ``S?_*`` arguments are strides in elements along (outer, middle, inner, axis);
channels are contiguous.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# ruff: noqa: N803

from __future__ import annotations

import os

import triton
import triton.language as tl

__all__ = ["delta_kernel", "forward_kernel", "score_gradient_kernel", "value_gradient_kernel"]

# Triton's interpreter multiplies the bit patterns of bfloat16 operands, so they are converted to float32 first.
_INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET", "0") == "1")


@triton.jit
def _row_slots(tile, length, per_clip, BLOCK: tl.constexpr, PACKED: tl.constexpr):
    """Return line, position on the line and validity of a tile's own slots; a clip has ``per_clip`` lines."""
    slot = tl.arange(0, BLOCK)
    if PACKED:
        # No tile spans two clips, so that a clip's values cannot change another's results.
        per_tile = BLOCK // length
        tiles = tl.cdiv(per_clip, per_tile)
        line = (tile % tiles) * per_tile + slot // length
        position = slot % length
        valid = (slot < per_tile * length) & (line < per_clip)
        line += (tile // tiles) * per_clip
    else:
        blocks = tl.cdiv(length, BLOCK)
        line = tile // blocks + slot * 0
        position = (tile % blocks) * BLOCK + slot
        valid = position < length
    return line, position, valid


@triton.jit
def _column_slots(tile, start, length, per_clip, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PACKED: tl.constexpr):
    """Return the same for the slots that a tile loops over: its own if packed, else a section of its line."""
    if PACKED:
        line, position, valid = _row_slots(tile, length, per_clip, COLUMNS, PACKED)
    else:
        slot = tl.arange(0, COLUMNS)
        line = tile // tl.cdiv(length, ROWS) + slot * 0
        position = start + slot
        valid = position < length
    return line, position, valid


@triton.jit
def _offsets(line, position, middle, inner, stride_o, stride_m, stride_i, stride_a):
    """Return the offsets of positions in a tensor, in elements."""
    line = line.to(tl.int64)
    rest = line // inner
    return (
        (rest // middle) * stride_o
        + (rest % middle) * stride_m
        + (line % inner) * stride_i
        + position.to(tl.int64) * stride_a
    )


@triton.jit
def _load(pointer, offsets, valid, first_channel, channels: tl.constexpr, BLOCK: tl.constexpr):
    """Load ``[slots, BLOCK]`` channels, zeros outside the tensor."""
    channel = first_channel + tl.arange(0, BLOCK)
    mask = valid[:, None] & (channel < channels)[None, :]
    return tl.load(pointer + offsets[:, None] + channel[None, :], mask=mask, other=0.0)


@triton.jit
def _dot(x, y, accumulator, PRECISION: tl.constexpr):
    """Return the matrix product plus a float32 accumulator."""
    if _INTERPRETED:
        x = x.to(tl.float32)
        y = y.to(tl.float32)
    return tl.dot(x, y, accumulator, input_precision=PRECISION)


@triton.jit
def _products(
    row_pointer, row_offsets, row_valid, column_pointer, column_offsets, column_valid,
    channels: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return the dot products of rows with columns, ``[ROWS, COLUMNS]``, over all channels."""
    result = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, channels, BLOCK):
        x = _load(row_pointer, row_offsets, row_valid, first, channels, BLOCK)
        y = _load(column_pointer, column_offsets, column_valid, first, channels, BLOCK)
        result = _dot(x, tl.trans(y), result, PRECISION)
    return result


@triton.jit
def _on_cross(line, position, valid, line_c, position_c, valid_c, EXCLUDE_SELF: tl.constexpr):
    """Return which columns are on the line of each row; the position itself unless EXCLUDE_SELF."""
    mask = valid[:, None] & valid_c[None, :] & (line[:, None] == line_c[None, :])
    if EXCLUDE_SELF:
        mask = mask & (position[:, None] != position_c[None, :])
    return mask


@triton.jit
def forward_kernel(
    query, key, value, output, lse_before, lse_after,
    length, middle, inner, channels: tl.constexpr, value_channels: tl.constexpr,
    SQ_o, SQ_m, SQ_i, SQ_a, SK_o, SK_m, SK_i, SK_a, SV_o, SV_m, SV_i, SV_a, SP_o, SP_m, SP_i, SP_a,
    EXCLUDE_SELF: tl.constexpr, MERGE: tl.constexpr, PACKED: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Attend along one axis and merge the result with that of earlier axes in ``output`` and ``lse_before``.

    One program computes one tile of queries and one block of value channels. Online softmax (arXiv 2205.14135).
    """
    tile = tl.program_id(0)
    first_channel = tl.program_id(1) * BLOCK_V
    line, position, valid = _row_slots(tile, length, middle * inner, ROWS, PACKED)
    rows = _offsets(line, position, middle, inner, SQ_o, SQ_m, SQ_i, SQ_a)
    largest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    attended = tl.zeros((ROWS, BLOCK_V), tl.float32)
    extent = COLUMNS if PACKED else length
    for start in range(0, extent, COLUMNS):
        line_c, position_c, valid_c = _column_slots(tile, start, length, middle * inner, ROWS, COLUMNS, PACKED)
        columns = _offsets(line_c, position_c, middle, inner, SK_o, SK_m, SK_i, SK_a)
        scores = _products(query, rows, valid, key, columns, valid_c, channels, ROWS, COLUMNS, BLOCK_D, PRECISION)
        mask = _on_cross(line, position, valid, line_c, position_c, valid_c, EXCLUDE_SELF)
        scores = tl.where(mask, scores, float("-inf"))
        larger = tl.maximum(largest, tl.max(scores, 1))
        shift = tl.where(larger == float("-inf"), 0.0, larger)  # a row may have no score yet
        weights = tl.exp(scores - shift[:, None])
        rescale = tl.exp(largest - shift)
        total = total * rescale + tl.sum(weights, 1)
        columns = _offsets(line_c, position_c, middle, inner, SV_o, SV_m, SV_i, SV_a)
        v = _load(value, columns, valid_c, first_channel, value_channels, BLOCK_V)
        attended = _dot(weights.to(v.dtype), v, attended * rescale[:, None], PRECISION)
        largest = larger
    target = _offsets(line, position, middle, inner, SP_o, SP_m, SP_i, SP_a)
    channel = first_channel + tl.arange(0, BLOCK_V)
    pointers = output + target[:, None] * value_channels + channel[None, :]
    mask = valid[:, None] & (channel < value_channels)[None, :]
    if MERGE:
        before = tl.load(lse_before + target, mask=valid, other=0.0)
        shift = tl.maximum(before, largest)
        share = tl.exp(before - shift)
        rescale = tl.exp(largest - shift)
        total = total * rescale + share
        earlier = tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
        attended = attended * rescale[:, None] + earlier * share[:, None]
        largest = shift
    total = tl.where(valid, total, 1.0)
    tl.store(pointers, (attended / total[:, None]).to(output.dtype.element_ty), mask=mask)
    # Not into lse_before, which programs of other channel blocks may still read.
    if first_channel == 0:
        tl.store(lse_after + target, largest + tl.log(total), mask=valid)


@triton.jit
def delta_kernel(
    grad, output, delta, positions, time, height, width, value_channels: tl.constexpr, SG_b, SG_t, SG_h, SG_w,
    ROWS: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Write ``grad . output`` for every position."""
    position = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    valid = position < positions
    w, rest = position % width, position // width
    h, rest = rest % height, rest // height
    offsets = (rest // time) * SG_b + (rest % time) * SG_t + h * SG_h + w * SG_w
    total = tl.zeros((ROWS,), tl.float32)
    for first in range(0, value_channels, BLOCK_V):
        g = _load(grad, offsets, valid, first, value_channels, BLOCK_V).to(tl.float32)
        o = _load(output, position * value_channels, valid, first, value_channels, BLOCK_V).to(tl.float32)
        total += tl.sum(g * o, 1)
    tl.store(delta + position, total, mask=valid)


@triton.jit
def score_gradient_kernel(
    own, other, own_value, other_value, log_sum_exp, delta, gradient,
    length, middle, inner, channels: tl.constexpr, value_channels: tl.constexpr,
    SX_o, SX_m, SX_i, SX_a, SY_o, SY_m, SY_i, SY_a, SU_o, SU_m, SU_i, SU_a, SW_o, SW_m, SW_i, SW_a,
    SP_o, SP_m, SP_i, SP_a,
    OWN_QUERIES: tl.constexpr, EXCLUDE_SELF: tl.constexpr, MERGE: tl.constexpr, PACKED: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Add one axis' part of the gradient of query (OWN_QUERIES) or of key; the two differ in which is the row.

    For queries: own = query, other = key, own_value = grad, other_value = value; for keys the reverse. One program
    computes one tile of rows and one block of their channels. ``gradient`` is float32 with contiguous positions.
    """
    tile = tl.program_id(0)
    first_channel = tl.program_id(1) * BLOCK_D
    line, position, valid = _row_slots(tile, length, middle * inner, ROWS, PACKED)
    rows = _offsets(line, position, middle, inner, SX_o, SX_m, SX_i, SX_a)
    row_values = _offsets(line, position, middle, inner, SU_o, SU_m, SU_i, SU_a)
    target = _offsets(line, position, middle, inner, SP_o, SP_m, SP_i, SP_a)
    result = tl.zeros((ROWS, BLOCK_D), tl.float32)
    extent = COLUMNS if PACKED else length
    for start in range(0, extent, COLUMNS):
        line_c, position_c, valid_c = _column_slots(tile, start, length, middle * inner, ROWS, COLUMNS, PACKED)
        columns = _offsets(line_c, position_c, middle, inner, SY_o, SY_m, SY_i, SY_a)
        values = _offsets(line_c, position_c, middle, inner, SW_o, SW_m, SW_i, SW_a)
        scores = _products(own, rows, valid, other, columns, valid_c, channels, ROWS, COLUMNS, BLOCK_D, PRECISION)
        products = _products(
            own_value, row_values, valid, other_value, values, valid_c,
            value_channels, ROWS, COLUMNS, BLOCK_D, PRECISION,
        )  # fmt: skip
        mask = _on_cross(line, position, valid, line_c, position_c, valid_c, EXCLUDE_SELF)
        if OWN_QUERIES:
            lse = tl.load(log_sum_exp + target, mask=valid, other=0.0)[:, None]
            d = tl.load(delta + target, mask=valid, other=0.0)[:, None]
        else:
            queries = _offsets(line_c, position_c, middle, inner, SP_o, SP_m, SP_i, SP_a)
            lse = tl.load(log_sum_exp + queries, mask=valid_c, other=0.0)[None, :]
            d = tl.load(delta + queries, mask=valid_c, other=0.0)[None, :]
        # Masked before the exponential: scores off the cross may exceed the log-sum-exp by any amount.
        weights = tl.exp(tl.where(mask, scores - lse, float("-inf")))
        grad_scores = weights * (products - d)
        y = _load(other, columns, valid_c, first_channel, channels, BLOCK_D)
        result = _dot(grad_scores.to(y.dtype), y, result, PRECISION)
    channel = first_channel + tl.arange(0, BLOCK_D)
    pointers = gradient + target[:, None] * channels + channel[None, :]
    mask = valid[:, None] & (channel < channels)[None, :]
    if MERGE:
        result += tl.load(pointers, mask=mask, other=0.0)
    tl.store(pointers, result, mask=mask)


@triton.jit
def value_gradient_kernel(
    query, key, grad, log_sum_exp, gradient,
    length, middle, inner, channels: tl.constexpr, value_channels: tl.constexpr,
    SQ_o, SQ_m, SQ_i, SQ_a, SK_o, SK_m, SK_i, SK_a, SG_o, SG_m, SG_i, SG_a, SP_o, SP_m, SP_i, SP_a,
    EXCLUDE_SELF: tl.constexpr, MERGE: tl.constexpr, PACKED: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Add one axis' part of the gradient of value. One program: a tile of keys (rows), a block of value channels."""
    tile = tl.program_id(0)
    first_channel = tl.program_id(1) * BLOCK_V
    line, position, valid = _row_slots(tile, length, middle * inner, ROWS, PACKED)
    rows = _offsets(line, position, middle, inner, SK_o, SK_m, SK_i, SK_a)
    result = tl.zeros((ROWS, BLOCK_V), tl.float32)
    extent = COLUMNS if PACKED else length
    for start in range(0, extent, COLUMNS):
        line_c, position_c, valid_c = _column_slots(tile, start, length, middle * inner, ROWS, COLUMNS, PACKED)
        columns = _offsets(line_c, position_c, middle, inner, SQ_o, SQ_m, SQ_i, SQ_a)
        scores = _products(key, rows, valid, query, columns, valid_c, channels, ROWS, COLUMNS, BLOCK_D, PRECISION)
        mask = _on_cross(line, position, valid, line_c, position_c, valid_c, EXCLUDE_SELF)
        queries = _offsets(line_c, position_c, middle, inner, SP_o, SP_m, SP_i, SP_a)
        lse = tl.load(log_sum_exp + queries, mask=valid_c, other=0.0)[None, :]
        weights = tl.exp(tl.where(mask, scores - lse, float("-inf")))
        columns = _offsets(line_c, position_c, middle, inner, SG_o, SG_m, SG_i, SG_a)
        g = _load(grad, columns, valid_c, first_channel, value_channels, BLOCK_V)
        result = _dot(weights.to(g.dtype), g, result, PRECISION)
    target = _offsets(line, position, middle, inner, SP_o, SP_m, SP_i, SP_a)
    channel = first_channel + tl.arange(0, BLOCK_V)
    pointers = gradient + target[:, None] * value_channels + channel[None, :]
    mask = valid[:, None] & (channel < value_channels)[None, :]
    if MERGE:
        result += tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
    tl.store(pointers, result.to(gradient.dtype.element_ty), mask=mask)
