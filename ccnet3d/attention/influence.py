"""How strongly a position attends to every other position through all loops of the recurrence.

Axes: T time, H height, W width, D query/key channels, C channels, N = T*H*W.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ccnet3d.attention.functional import criss_cross_attention
from ccnet3d.attention.modules import CrissCrossAttention

__all__ = ["attention_influence", "queries_and_keys"]


def attention_influence(loops: Sequence[tuple[Tensor, Tensor]], position: tuple[int, int, int]) -> Tensor:
    """Return the weight of every position of a clip in the attention of one position after R loops.

    If A_r is the attention of loop r as a matrix, zero off the cross and with rows that sum to 1 (CCNet,
    arXiv 1811.11721, equation 1), this is one row of ``A_R ... A_2 A_1``; section 3.3 of the paper follows the same
    paths. Only attention counts: the projection of the values is left out because it mixes channels, so that a pair of
    positions would have no single weight, and gamma and the residual because they would only add a peak at the
    position itself.

    The row is multiplied with one loop after another, from the last to the first, without building an N x N matrix:
    attention is linear in its values, so a row times A_r is the gradient with respect to the values.

    Args:
        loops: query and key of each loop, ``[1, T, H, W, D]``, the first loop first.
        position: (t, h, w).

    Returns:
        ``[T, H, W]`` in the dtype of the queries, non-negative, with sum 1; zero where R loops do not reach.

    Raises:
        ValueError: no loop, more than one clip, or a position outside the grid.

    >>> import torch
    >>> from ccnet3d.attention import attention_influence
    >>> loop = torch.rand(2, 1, 3, 4, 5, 8)  # query and key, each [1, T, H, W, D]
    >>> int((attention_influence([loop], (0, 1, 2)) > 0).sum())  # the cross: 3 + 4 + 5 - 2 positions
    10
    >>> int((attention_influence([loop] * 3, (0, 1, 2)) > 0).sum())  # three loops reach all 3 * 4 * 5
    60
    """
    if not loops or any(query.dim() != 5 or query.shape[0] != 1 for query, _ in loops):
        raise ValueError(
            f"expected query and key [1, T, H, W, D] of at least one loop, got {[tuple(q.shape) for q, _ in loops]}"
        )
    query = loops[0][0]
    grid = tuple(query.shape[1:4])
    if not all(0 <= index < length for index, length in zip(position, grid, strict=True)):
        raise ValueError(f"the position (t, h, w) must be inside a grid of {grid}, counted from 0, got {position}")
    row = query.new_zeros(1, *grid, 1)
    row[(0, *position)] = 1
    for query, key in reversed(loops):
        with torch.enable_grad():
            values = torch.zeros_like(row, requires_grad=True)
            attended = criss_cross_attention(query.detach(), key.detach(), values)
        (row,) = torch.autograd.grad(attended, values, row)
    return row[0, ..., 0]


@torch.no_grad()
def queries_and_keys(attention: CrissCrossAttention, x: Tensor, loops: int) -> list[tuple[Tensor, Tensor]]:
    """Return query and key of each loop of a recurrence; they differ because each loop changes the features.

    Args:
        attention: the module; all loops share its weights, so ``loops`` may differ from its own number of loops.
        x: its input, ``[B, C, T, H, W]``.
        loops: R, the number of loops.

    Returns:
        R pairs, each tensor ``[B, T, H, W, D]``.

    >>> import torch
    >>> from ccnet3d.attention import RecurrentCrissCrossAttention, queries_and_keys
    >>> attention = RecurrentCrissCrossAttention(channels=16, loops=3)
    >>> pairs = queries_and_keys(attention, torch.rand(1, 16, 3, 4, 5), loops=3)
    >>> [tuple(query.shape) for query, key in pairs]
    [(1, 3, 4, 5, 2), (1, 3, 4, 5, 2), (1, 3, 4, 5, 2)]
    """
    x = x.permute(0, 2, 3, 4, 1).contiguous()  # [B, T, H, W, C]
    pairs = []
    for _ in range(loops):
        query, key, _ = attention.project(x)
        pairs.append((query, key))
        x = CrissCrossAttention.attend(attention, x)  # the base class applies one loop, also for the recurrent module
    return pairs
