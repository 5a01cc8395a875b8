"""Criss-cross attention as a pure function, and the choice of the backend that computes it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ccnet3d.attention.axial import axial_criss_cross_attention
from ccnet3d.attention.reference import criss_cross_attention_reference

_BACKENDS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "axial": axial_criss_cross_attention,
    "reference": criss_cross_attention_reference,
}


def _check_inputs(query: Tensor, key: Tensor, value: Tensor) -> None:
    shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
    if not query.dim() == key.dim() == value.dim() == 5:
        raise ValueError(
            f"expected 5-D tensors [B, T, H, W, channels], got {shapes}; add the missing axes, T=1 for images"
        )
    if query.shape != key.shape or query.shape[:4] != value.shape[:4]:
        raise ValueError(
            "query and key must have one shape [B, T, H, W, D] and value [B, T, H, W, Dv] with the same B, T, H, W, "
            f"got {shapes}"
        )
    if 0 in query.shape or value.shape[-1] == 0:
        raise ValueError(f"every axis must be at least 1 long, got {shapes}")
    if not query.dtype == key.dtype == value.dtype or not query.is_floating_point():
        raise ValueError(
            "query, key and value must have one floating-point dtype, "
            f"got {query.dtype}, {key.dtype}, {value.dtype}; cast them first"
        )


def criss_cross_attention(query: Tensor, key: Tensor, value: Tensor, *, backend: str = "auto") -> Tensor:
    """Attend from every position to the cross of positions that share at least two of its coordinates.

    ``out(u) = sum_i softmax_i(query(u) . key(i)) value(i)`` where i runs over the T + H + W - 2 positions
    that differ from u in at most one of (t, h, w); u itself is counted once and scores are not scaled
    (CCNet, arXiv 1811.11721, equations 1 and 2; the third axis as in its CCNet3D). With T = 1 it is the 2D
    operator of CCNet. Differentiable in all three arguments.

    Args:
        query: ``[B, T, H, W, D]``. Channels last is the layout that measures fastest; a permuted view of a
            ``torch.channels_last_3d`` tensor has it without a copy.
        key: ``[B, T, H, W, D]``.
        value: ``[B, T, H, W, Dv]``.
        backend: ``"axial"`` (fast, stock PyTorch), ``"reference"`` (the definition, O(N^2) memory) or
            ``"auto"``, which takes the fastest that exists here.

    Returns:
        ``[B, T, H, W, Dv]``, in the dtype of the inputs, or in autocast's where that is on.

    Raises:
        ValueError: shapes or dtypes that do not fit together, an empty axis, an unknown backend.
    """
    device_type = query.device.type
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
        query, key, value = (x.to(dtype) for x in (query, key, value))
    _check_inputs(query, key, value)
    name = "axial" if backend == "auto" else backend
    if name not in _BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; choose 'auto' or one of {sorted(_BACKENDS)}")
    with torch.autocast(device_type, enabled=False):
        return _BACKENDS[name](query, key, value)
