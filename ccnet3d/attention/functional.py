"""Criss-cross attention as a pure function; :mod:`ccnet3d.attention.backends` computes it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from ccnet3d.attention.backends import BACKENDS, choose_backend
from ccnet3d.attention.backends.backend import FusedBackend
from ccnet3d.attention.custom_op import attention_op

__all__ = ["AttentionBackend", "criss_cross_attention", "criss_cross_attention_backends"]


@dataclass(frozen=True)
class AttentionBackend:
    """One way to compute :func:`criss_cross_attention`, as :func:`criss_cross_attention_backends` lists it."""

    name: str
    available: bool
    detail: str
    """A description, or why it cannot be used on this machine."""


def criss_cross_attention_backends() -> tuple[AttentionBackend, ...]:
    """Return all backends, fastest first, and why one is not available on this machine.

    >>> from ccnet3d import criss_cross_attention_backends
    >>> [backend.name for backend in criss_cross_attention_backends()]
    ['triton', 'tiled', 'axial', 'reference']
    """
    listed = []
    for backend in BACKENDS:
        reason = backend.why_unavailable()
        listed.append(AttentionBackend(backend.name, reason is None, reason or backend.description))
    return tuple(listed)


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
    if not query.device == key.device == value.device:
        raise ValueError(
            "query, key and value must be on one device, "
            f"got {query.device}, {key.device}, {value.device}; move them first"
        )


def _is_plain_inference(*tensors: Tensor) -> bool:
    """Return whether nothing but the result is needed: no gradients, no graph, no mode that watches operators.

    Then the operator's registration with PyTorch is of no use, and its first call would import torch.compile's
    machinery, which takes as long as all of PyTorch.
    """
    return (
        not torch.compiler.is_compiling()  # first, because the rest cannot be compiled
        and torch.is_inference_mode_enabled()
        and not is_in_torch_dispatch_mode()
        and all(type(tensor) is Tensor for tensor in tensors)
    )


def criss_cross_attention(query: Tensor, key: Tensor, value: Tensor, *, backend: str = "auto") -> Tensor:
    """Attend from every position to its cross: the positions that share at least two of its coordinates.

    ``out(u) = sum_i softmax_i(query(u) . key(i)) value(i)``, where i runs over the T + H + W - 2 positions that differ
    from u in at most one of (t, h, w). The position u itself is counted once, and scores are not scaled (CCNet,
    arXiv 1811.11721, equations 1 and 2; the third axis as in its CCNet3D). With T = 1 it is the 2D operator of CCNet.

    It is differentiable in all three arguments: once with the fused backends, any number of times with ``"axial"`` and
    ``"reference"``. Results and gradients are reproducible: every backend adds in a fixed order.

    Args:
        query: ``[B, T, H, W, D]``. Channels last is the fastest layout; a permuted view of a
            ``torch.channels_last_3d`` tensor has it without a copy.
        key: ``[B, T, H, W, D]``.
        value: ``[B, T, H, W, Dv]``.
        backend: ``"triton"`` (fused, CUDA), ``"tiled"`` (stock PyTorch, fastest on CPUs), ``"axial"`` (standard
            operators), ``"reference"`` (the definition, O(N^2) memory), or ``"auto"``: the backend in the environment
            variable CCNET3D_ATTENTION_BACKEND if set, else the fastest available one (see
            :func:`criss_cross_attention_backends`), and ``"axial"`` while a graph is exported.

    Returns:
        ``[B, T, H, W, Dv]``, in the dtype of the inputs, or in autocast's dtype if that is enabled.

    Raises:
        ValueError: shapes, dtypes or devices do not match, an axis is empty, or the backend is unknown or cannot be
            used.
        NotImplementedError: a second derivative, ``torch.func`` or forward mode through a fused backend that was
            requested by name.

    >>> import torch
    >>> from ccnet3d import criss_cross_attention
    >>> query, key = torch.rand(2, 1, 5, 6, 8, 16)  # each [B, T, H, W, D]
    >>> value = torch.rand(1, 5, 6, 8, 32)
    >>> criss_cross_attention(query, key, value).shape
    torch.Size([1, 5, 6, 8, 32])
    """
    device_type = query.device.type
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
        query, key, value = (x.to(dtype) for x in (query, key, value))
        with torch.autocast(device_type, enabled=False):
            return criss_cross_attention(query, key, value, backend=backend)
    _check_inputs(query, key, value)
    chosen = choose_backend(backend, query)
    if isinstance(chosen, FusedBackend):
        if _is_plain_inference(query, key, value):
            return chosen.forward(query, key, value)[0]
        return attention_op(query, key, value, chosen.name)[0]
    return chosen.attend(query, key, value)
