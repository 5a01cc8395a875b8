"""The definition of 3D criss-cross attention, written to be read, not to be fast.

Axes: B batch, T time, H height, W width, D query/key channels, Dv value channels, N = T*H*W.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ccnet3d.attention.backends.backend import ComposedBackend

__all__ = ["BACKEND", "criss_cross_attention_reference", "criss_cross_weights_reference", "cross_mask"]


def cross_mask(time: int, height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Return which positions are on the cross of each position.

    Position i is on the cross of u if the two differ in at most one of the coordinates (t, h, w); u itself is on its
    own cross, once. Every row therefore contains T + H + W - 2 times True.

    Returns:
        bool ``[N, N]``, row u, column i, positions numbered in (t, h, w) order.
    """
    axes = [torch.arange(length, device=device) for length in (time, height, width)]
    coordinates = torch.cartesian_prod(*axes).reshape(-1, 3)  # [N, 3]
    differing = (coordinates[:, None, :] != coordinates[None, :, :]).sum(-1)  # [N, N]
    return differing <= 1


def criss_cross_weights_reference(query: Tensor, key: Tensor) -> Tensor:
    """Return the attention of every position over all positions: ``[B, N, N]``, zero off its cross, rows sum to 1."""
    _, time, height, width, _ = query.shape
    q, k = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (query, key))  # float16 would overflow
    scores = q.flatten(1, 3) @ k.flatten(1, 3).transpose(1, 2)  # [B, N, N]
    off_cross = ~cross_mask(time, height, width, query.device)
    return scores.masked_fill(off_cross, float("-inf")).softmax(dim=-1)


def criss_cross_attention_reference(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute 3D criss-cross attention as dense attention with everything off the cross masked out.

    One joint softmax over the T + H + W - 2 scores of a cross, without 1/sqrt(D) scale (CCNet,
    arXiv 1811.11721, equations 1 and 2, extended to three axes). It needs O(N^2) memory: use it for tests.

    :func:`ccnet3d.attention.criss_cross_attention` documents shapes and errors.

    >>> import torch
    >>> from ccnet3d.attention import criss_cross_attention_reference
    >>> equal = torch.zeros(1, 1, 2, 2, 8)  # equal scores give the mean over the cross of each position
    >>> values = torch.tensor([0.0, 3.0, 6.0, 9.0]).view(1, 1, 2, 2, 1)
    >>> criss_cross_attention_reference(equal, equal, values).flatten()
    tensor([3., 4., 5., 6.])
    """
    weights = criss_cross_weights_reference(query, key)
    return (weights.to(value.dtype) @ value.flatten(1, 3)).unflatten(1, value.shape[1:4])


BACKEND = ComposedBackend(
    name="reference",
    description="the definition, O(N^2) memory: for tests",
    attend=criss_cross_attention_reference,
)
