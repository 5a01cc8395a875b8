"""Criss-cross attention in standard operators: three axial products under one softmax.

Exported graphs contain this backend. It supports every device and every transformation of autograd, double backward
included. It keeps the N x L weights and copies permuted tensors, so the fused backends are faster.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ccnet3d.attention.backends.backend import ComposedBackend

__all__ = ["BACKEND", "axial_criss_cross_attention"]


def _mask_self(scores: Tensor) -> Tensor:
    """Mask the diagonal of ``[..., n, n]``: only the width axis counts the position itself."""
    positions = torch.arange(scores.shape[-1], device=scores.device)
    return scores.masked_fill(positions[:, None] == positions, float("-inf"))


def axial_criss_cross_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute :func:`ccnet3d.attention.criss_cross_attention`, which documents shapes and errors.

    An axis of length 1 is fully masked; the softmax is joint and the width never is, so no row is all -inf.
    """
    time, height, width = query.shape[1:4]
    # Float16 scores would overflow, and bfloat16 ones lose two digits.
    q, k = (x if x.dtype == torch.float64 else x.float() for x in (query, key))
    row_scores = q @ k.transpose(3, 4)  # [B, T, H, W, W]
    column_scores = _mask_self(q.transpose(2, 3) @ k.permute(0, 1, 3, 4, 2)).transpose(2, 3)  # [B, T, H, W, H]
    time_scores = _mask_self(q.permute(0, 2, 3, 1, 4) @ k.permute(0, 2, 3, 4, 1)).permute(0, 3, 1, 2, 4)  # [., T]
    weights = torch.cat((row_scores, column_scores, time_scores), dim=-1).softmax(dim=-1).to(value.dtype)
    row, column, over_time = weights.split((width, height, time), dim=-1)
    output = row @ value  # [B, T, H, W, Dv]
    output = output + (column.transpose(2, 3) @ value.transpose(2, 3)).transpose(2, 3)
    return output + (over_time.permute(0, 2, 3, 1, 4) @ value.permute(0, 2, 3, 1, 4)).permute(0, 3, 1, 2, 4)


BACKEND = ComposedBackend(
    name="axial",
    description="standard operators: exported graphs, double backward; keeps the N x L weights",
    attend=axial_criss_cross_attention,
)
