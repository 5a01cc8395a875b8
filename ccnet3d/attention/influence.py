"""Where a position attends to through the loops of the recurrence.

Axes: T time, H height, W width, D query/key channels, C channels, N = T*H*W.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ccnet3d.attention.functional import criss_cross_attention
from ccnet3d.attention.modules import CrissCrossAttention


def attention_influence(loops: Sequence[tuple[Tensor, Tensor]], position: tuple[int, int, int]) -> Tensor:
    """How much every position of a clip counts in what one position has attended to after R loops.

    With the attention of loop r as a matrix A_r whose rows sum to 1, zero off the cross (CCNet, arXiv 1811.11721,
    equation 1), this is one row of ``A_R ... A_2 A_1``. Section 3.3 of the paper follows the same paths. It is the
    attention alone: gamma, the residual and the values' projection are left out, for the last mixes channels, so that
    with it there is no single number for a pair of positions, and the residual would only add a peak at the position.

    The row is taken through one loop after the other, from the last to the first, in the memory of the operator:
    attention is linear in its values, so a row times A_r is the gradient of the values. No N x N matrix is built.

    Args:
        loops: query and key of each loop, ``[1, T, H, W, D]``, the first loop first.
        position: (t, h, w).

    Returns:
        ``[T, H, W]`` in the dtype of the queries, not negative, with sum 1; zero where R loops do not reach.

    Raises:
        ValueError: no loop, more than one clip, or a position outside the grid.
    """
    if not loops or any(query.dim() != 5 or query.shape[0] != 1 for query, _ in loops):
        raise ValueError(
            f"expected query and key [1, T, H, W, D] of at least one loop, got {[tuple(q.shape) for q, _ in loops]}"
        )
    query = loops[0][0]
    grid = tuple(query.shape[1:4])
    if not all(0 <= place < length for place, length in zip(position, grid, strict=True)):
        raise ValueError(f"the position (t, h, w) must lie in a grid of {grid}, counted from 0, got {position}")
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
    """Query and key of each loop of the module's recurrence, which differ as each loop changes the features.

    Args:
        attention: the module; its weights are shared by all loops, so ``loops`` need not be its own number.
        x: its input, ``[B, C, T, H, W]``.
        loops: R, how many.

    Returns:
        R pairs ``[B, T, H, W, D]``.
    """
    x = x.permute(0, 2, 3, 4, 1).contiguous()  # [B, T, H, W, C]
    pairs = []
    for _ in range(loops):
        query, key, _ = attention.project(x)
        pairs.append((query, key))
        x = CrissCrossAttention.attend(attention, x)  # one loop, also of the recurrent module
    return pairs
