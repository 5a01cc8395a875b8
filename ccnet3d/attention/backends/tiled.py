"""The fast backend in stock PyTorch: axial matrix products tile by tile, with a handwritten backward pass.

A softmax over the union of three axes equals the three axial attentions merged by their log-sum-exp. The forward pass
therefore computes the time axis first, hundreds of positions per tile. It then treats that result as one more key of
each position, with the log-sum-exp as its score, in one softmax over the position's row and column. Besides inputs and
results, the largest intermediate tensor is one frame's scores, ``H * W * (H + W + 1)`` elements. The backward pass
recomputes the weights axis by axis from the joint log-sum-exp; the axes share one number per position.

Channels stay last: the D (or Dv) channels of a position are contiguous, and every product below runs on strided views.
Scores, their softmax and the gradients of query and key are computed in float32 (float64 for float64 inputs), because
float16 scores would overflow and bfloat16 scores would lose two digits. Products with the values, nine tenths of the
work, run in the inputs' precision where the machine is fast in it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from ccnet3d.attention.backends import cpu
from ccnet3d.attention.backends.backend import FusedBackend

__all__ = ["BACKEND", "LONGEST_KEPT_CLIP", "Kept", "position_tiles", "tiled_backward", "tiled_forward", "time_backward"]

# The values of a tile stay in cache: 256 positions of T = 5 frames and 512 float32 channels are 2.6 MB, and so are 1280
# positions of columns. Half and twice these sizes are equally fast.
_TILE_POSITIONS = 256
_TILE_COLUMN_POSITIONS = 1280
LONGEST_KEPT_CLIP = 16
"""Clips up to this length keep the time axis' weights during the backward pass."""

Kept = list[tuple[Tensor, Tensor]]
"""Weights of the time axis and their gradients, ``[P, T, T]`` for each tile."""


def _score_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _value_dtype(x: Tensor) -> torch.dtype:
    """Return the precision for products with values: float32 where the CPU has no fast half-precision product."""
    if x.device.type == "cpu" and (
        x.dtype == torch.float16 or (x.dtype == torch.bfloat16 and not cpu.multiplies_bfloat16())
    ):
        return torch.float32
    return x.dtype


def _self_mask(length: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask to add to ``[..., n, n]`` scores: only the width axis counts the position itself."""
    return torch.zeros(length, length, dtype=dtype, device=like.device).fill_diagonal_(float("-inf"))


def _positions(x: Tensor, some: slice) -> Tensor:
    """Select P of the H * W positions of ``[T, H, W, ...]``: ``[P, T, ...]``."""
    return x.flatten(1, 2)[:, some].transpose(0, 1)


def position_tiles(length: int, size: int = _TILE_POSITIONS) -> list[slice]:
    """Return the tiles of so many positions."""
    size = max(size, 1)
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def tiled_forward(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return the output ``[B, T, H, W, Dv]`` and the log-sum-exp of every position's scores, ``[B, T, H, W]``.

    :func:`ccnet3d.attention.criss_cross_attention` documents the inputs. The log-sum-exp has the scores' precision.
    """
    output = cpu.empty(*value.shape, like=value, dtype=value.dtype)
    log_sum_exp = cpu.empty(*query.shape[:4], like=query, dtype=_score_dtype(query))
    for clip in zip(query, key, value, output, log_sum_exp, strict=True):
        _time_forward(*clip)
        _space_forward(*clip)
    return output, log_sum_exp


def _time_forward(query: Tensor, key: Tensor, value: Tensor, output: Tensor, log_sum_exp: Tensor) -> None:
    """Attend along the time axis only, ``[T, H, W, .]``; write the output and the log-sum-exp ``[T, H, W]``."""
    time, height, width, _ = query.shape
    if time == 1:
        return
    scores_in, values_in = log_sum_exp.dtype, _value_dtype(value)
    mask = _self_mask(time, query, scores_in)
    tiles = position_tiles(height * width)
    tile = cpu.empty(tiles[0].stop, time, value.shape[-1], like=value, dtype=values_in)
    for some in tiles:
        q, k, v = (_positions(x, some) for x in (query, key, value))  # [P, T, D or Dv]
        scores = torch.bmm(q.to(scores_in), k.to(scores_in).transpose(1, 2)).add_(mask)  # [P, T, T]
        # Positions last, because a softmax over five contiguous numbers is slow.
        scores = scores.permute(1, 2, 0).contiguous()
        softmax = scores.softmax(1)
        log_sum_exp.flatten(1, 2)[:, some] = scores.amax(1).sub_(softmax.amax(1).log_())
        weights = softmax.to(values_in).permute(2, 0, 1).contiguous()
        attended = torch.bmm(weights, v.to(values_in), out=tile[: len(weights)])
        output.flatten(1, 2)[:, some] = attended.transpose(0, 1)


@cpu.fast_float32_products()
def _space_forward(query: Tensor, key: Tensor, value: Tensor, output: Tensor, log_sum_exp: Tensor) -> None:
    """Attend along rows and columns, ``[T, H, W, .]``, and merge with the time axis' result in the output."""
    time, height, width, _ = query.shape
    scores_in, values_in = log_sum_exp.dtype, _value_dtype(value)
    new = functools.partial(cpu.empty, like=value)
    row_scores = new(height, width, width, dtype=scores_in)
    column_scores = new(width, height, height, dtype=scores_in)
    keys = width + (height if height > 1 else 0) + (1 if time > 1 else 0)
    scores = new(height, width, keys, dtype=scores_in)
    columns = position_tiles(width, _TILE_COLUMN_POSITIONS // height)
    tile = new(columns[0].stop, height, value.shape[-1], dtype=values_in)
    mask = _self_mask(height, query, scores_in)
    for t in range(time):
        q, k, v = query[t].to(scores_in), key[t].to(scores_in), value[t].to(values_in)
        parts = [torch.bmm(q, k.transpose(1, 2), out=row_scores)]  # [H, W, W]
        if height > 1:
            torch.bmm(q.transpose(0, 1), k.permute(1, 2, 0), out=column_scores)  # [W, H, H]
            parts.append(column_scores.add_(mask).transpose(0, 1))
        if time > 1:
            parts.append(log_sum_exp[t].unsqueeze(-1))
        torch.cat(parts, dim=-1, out=scores)
        largest = scores.amax(-1, keepdim=True)
        total = scores.sub_(largest).exp_().sum(-1, keepdim=True)
        weights = scores.div_(total).to(values_in)
        log_sum_exp[t] = largest.add_(total.log_()).squeeze(-1)
        frame = output[t].to(values_in)  # a view, unless the precision differs
        for some in columns if height > 1 else ():
            column_weights = weights[:, some, width : width + height].transpose(0, 1)  # [W', H, H]
            attended = torch.bmm(column_weights, v[:, some].transpose(0, 1), out=tile[: len(column_weights)])
            if time > 1:
                part = frame[:, some]
                torch.addcmul(attended.transpose(0, 1), part, weights[:, some, -1:], out=part)
            else:
                frame[:, some] = attended.transpose(0, 1)
        if height == 1 and time > 1:
            frame.mul_(weights[..., -1:])
        torch.baddbmm(frame, weights[..., :width], v, beta=int(height > 1 or time > 1), out=frame)
        if frame.dtype != output.dtype:
            output[t] = frame


def tiled_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _: Tensor | None,
    log_sum_exp: Tensor,
    *,
    time_axis: Callable[..., Kept] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value from the output's gradient and the forward pass's log-sum-exp.

    With weights ``P = exp(S - log-sum-exp)`` and ``dP = grad . value``, the scores' gradient is
    ``dS = P (dP - delta)``. Its products with key and query are the gradients of query and key; the value's gradient is
    ``P`` transposed times ``grad``. ``delta`` is the sum of ``P dP`` over the cross. It equals ``grad . output``
    (FlashAttention, arXiv 2205.14135, appendix B.4), but in half precision the rounding errors of ``dP`` cancel only if
    ``delta`` is summed from the same ``dP`` that it is subtracted from.

    ``time_axis`` may replace the first call of :func:`time_backward`.
    """
    scores_in = log_sum_exp.dtype
    # The gradients of query and key are small, so they accumulate in the scores' precision, the value's in its own.
    grad_query, grad_key = (cpu.empty(*query.shape, like=query, dtype=scores_in) for _ in range(2))
    grad_value = cpu.empty(*value.shape, like=value, dtype=value.dtype)
    for b in range(len(query)):
        inputs = grad[b], query[b], key[b], value[b], log_sum_exp[b]
        gradients = grad_query[b], grad_key[b], grad_value[b]
        delta = torch.zeros_like(log_sum_exp[b])  # [T, H, W]
        kept = (time_axis or time_backward)(*inputs, delta, *gradients)
        _space_backward(*inputs, delta, *gradients)
        time_backward(*inputs, delta, *gradients, kept=kept)
    return grad_query.to(query.dtype), grad_key.to(key.dtype), grad_value


def time_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_sum_exp: Tensor,
    delta: Tensor,
    grad_query: Tensor,
    grad_key: Tensor,
    grad_value: Tensor,
    *,
    kept: Kept | None = None,
) -> Kept:
    """Write the time axis' part of delta and the value's gradient; in a second call, add that of query and key.

    The second call needs what the first returns: weights and their gradients, ``[P, T, T]`` for each tile. Long clips
    compute them again, because they would need more memory than the gradients.
    """
    time, height, width, _ = query.shape
    first = kept is None
    keep: Kept = []
    if time == 1:
        return keep
    scores_in, values_in = log_sum_exp.dtype, _value_dtype(value)
    mask = _self_mask(time, query, scores_in)
    tiles = position_tiles(height * width)
    tile = cpu.empty(tiles[0].stop, time, value.shape[-1], like=value, dtype=values_in)
    for i, some in enumerate(tiles):
        q, k = (_positions(x, some).to(scores_in) for x in (query, key))  # [P, T, D]
        if kept:
            weights, grad_weights = kept[i]
        else:
            v, g = (_positions(x, some).to(values_in) for x in (value, grad))  # [P, T, Dv]
            weights, grad_weights = torch.empty(2, len(q), time, time, dtype=scores_in, device=q.device)
            _axis_weights(g, q, k, v, _positions(log_sum_exp, some), weights, grad_weights, mask)  # [P, T, T]
        if first:
            if time <= LONGEST_KEPT_CLIP:
                keep.append((weights, grad_weights))
            delta.flatten(1, 2)[:, some] = (weights * grad_weights).sum(-1).t()
            attended = torch.bmm(weights.to(values_in).transpose(1, 2), g, out=tile[: len(weights)])
            grad_value.flatten(1, 2)[:, some] = attended.transpose(0, 1)
        else:
            grad_scores = grad_weights.sub_(_positions(delta, some).unsqueeze(-1)).mul_(weights)
            grad_query.flatten(1, 2)[:, some] += torch.bmm(grad_scores, k).transpose(0, 1)
            grad_key.flatten(1, 2)[:, some] += torch.bmm(grad_scores.transpose(1, 2), q).transpose(0, 1)
    return keep


@cpu.fast_float32_products()
def _space_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_sum_exp: Tensor,
    delta: Tensor,
    grad_query: Tensor,
    grad_key: Tensor,
    grad_value: Tensor,
) -> None:
    """Complete delta and write the gradients' row and column parts, ``[T, H, W, .]``, adding to the value's."""
    time, height, width, _ = query.shape
    scores_in, values_in = log_sum_exp.dtype, _value_dtype(value)
    new = functools.partial(cpu.empty, like=value, dtype=scores_in)
    row_weights, row_grads, row_product = (new(height, width, width) for _ in range(3))
    columns = position_tiles(width, _TILE_COLUMN_POSITIONS // height) if height > 1 else []
    column_weights, column_grads, column_product = (new(width if columns else 0, height, height) for _ in range(3))
    column_query, column_key, column_part = (new(width if columns else 0, height, query.shape[-1]) for _ in range(3))
    tile_shape = columns[0].stop if columns else 0, height, value.shape[-1]
    tiles = [cpu.empty(*tile_shape, like=value, dtype=values_in) for _ in range(3)]
    mask = _self_mask(height, query, scores_in)
    for t in range(time):
        q, k = query[t].to(scores_in), key[t].to(scores_in)
        v, g, gv = (x[t].to(values_in) for x in (value, grad, grad_value))
        lse, d, gq, gk = log_sum_exp[t], delta[t], grad_query[t], grad_key[t]
        _axis_weights(g, q, k, v, lse, row_weights, row_grads)  # [H, W, W]
        torch.baddbmm(gv, row_weights.to(values_in).transpose(1, 2), g, beta=int(time > 1), out=gv)
        d += torch.mul(row_weights, row_grads, out=row_product).sum(-1)
        if columns:
            column_query.copy_(q.transpose(0, 1))
            column_key.copy_(k.transpose(0, 1))
        for some in columns:
            weights = column_weights[some]
            vc, gc, attended = (tile[: len(weights)] for tile in tiles)  # [W', H, Dv]
            vc.copy_(v[:, some].transpose(0, 1))
            gc.copy_(g[:, some].transpose(0, 1))
            qc, kc, lse_c, grads = column_query[some], column_key[some], lse[:, some].t(), column_grads[some]
            _axis_weights(gc, qc, kc, vc, lse_c, weights, grads, mask)  # [W', H, H]
            gv[:, some] += torch.bmm(weights.to(values_in).transpose(1, 2), gc, out=attended).transpose(0, 1)
        if columns:
            d += torch.mul(column_weights, column_grads, out=column_product).sum(-1).t()
        grad_scores = row_grads.sub_(d.unsqueeze(-1)).mul_(row_weights)
        torch.bmm(grad_scores, k, out=gq)
        torch.bmm(grad_scores.transpose(1, 2), q, out=gk)
        if columns:
            grad_scores = column_grads.sub_(d.t().unsqueeze(-1)).mul_(column_weights)
            gq += torch.bmm(grad_scores, column_key, out=column_part).transpose(0, 1)
            gk += torch.bmm(grad_scores.transpose(1, 2), column_query, out=column_part).transpose(0, 1)
        if gv.dtype != grad_value.dtype:
            grad_value[t] = gv


def _axis_weights(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_sum_exp: Tensor,
    weights: Tensor,
    grad_weights: Tensor,
    mask: Tensor | None = None,
) -> None:
    """Recompute weights and their gradient for ``[lines, n, .]``; write both, each ``[lines, n, n]``."""
    torch.bmm(query, key.transpose(1, 2), out=weights)
    if mask is not None:
        weights += mask
    weights.sub_(log_sum_exp.unsqueeze(-1)).exp_()
    if grad.dtype == grad_weights.dtype:
        torch.bmm(grad, value.transpose(1, 2), out=grad_weights)
    else:
        grad_weights.copy_(torch.bmm(grad, value.transpose(1, 2)))


BACKEND = FusedBackend(
    name="tiled",
    description="stock PyTorch, tile by tile, on any device and in any floating-point dtype",
    forward=tiled_forward,
    backward=tiled_backward,
)
