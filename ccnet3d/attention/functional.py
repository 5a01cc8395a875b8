"""Criss-cross attention as a pure function, and the choice of the backend that computes it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ccnet3d.attention.backends.axial import axial_criss_cross_attention
from ccnet3d.attention.backends.reference import criss_cross_attention_reference
from ccnet3d.attention.custom_op import attention_op

BACKEND_VARIABLE = "CCNET3D_ATTENTION_BACKEND"
_NAMES = ("triton", "tiled", "axial", "reference")
_TRITON_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class AttentionBackend:
    """One way to compute :func:`criss_cross_attention`."""

    name: str
    available: bool
    detail: str
    """What it is, or why it cannot be used here."""


def criss_cross_attention_backends() -> tuple[AttentionBackend, ...]:
    """Say which backends exist here, fastest first, and why one does not."""
    missing = _why_not_triton()
    fused = "fused kernels for CUDA tensors in float16, bfloat16 and float32"
    return (
        AttentionBackend("triton", missing is None, missing or fused),
        AttentionBackend("tiled", True, "stock PyTorch a tile at a time, any device and floating-point dtype"),
        AttentionBackend(
            "axial", True, "standard operators: exported graphs, double backward; keeps the N x L weights"
        ),
        AttentionBackend("reference", True, "the definition, O(N^2) memory: for tests"),
    )


def _interpreting() -> bool:
    """Whether Triton kernels run in Triton's interpreter, which takes CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def _why_not_triton() -> str | None:
    if find_spec("triton") is None:
        return "Triton is not installed"
    if _interpreting():
        return None
    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA device"
    if torch.cuda.get_device_capability() < (8, 0):
        return f"needs compute capability 8.0, {torch.cuda.get_device_name()} is older"
    return None


def transformed() -> bool:
    """Whether torch.func or forward-mode autograd is at work, which have no rules for our operator."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def traced() -> bool:
    """Whether a graph is recorded that shall run where this package is not installed."""
    return torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None


def _choose_backend(requested: str, query: Tensor) -> str:
    source = "backend"
    if requested == "auto":
        requested, source = os.environ.get(BACKEND_VARIABLE) or "auto", BACKEND_VARIABLE
    if requested == "auto":
        if transformed() or traced():
            return "axial"
        fused = query.is_cuda and query.dtype in _TRITON_DTYPES and _why_not_triton() is None
        return "triton" if fused else "tiled"
    if requested not in _NAMES:
        raise ValueError(f"unknown {source} {requested!r}; choose 'auto' or one of {sorted(_NAMES)}")
    if requested in ("tiled", "triton") and transformed():  # forward mode would lose the tangents without a word
        raise NotImplementedError(
            f"{source} {requested!r} has no rules for torch.func and forward-mode autograd; use 'auto' or 'axial'"
        )
    if requested == "triton":
        missing = _why_not_triton()
        if missing is None and not query.is_cuda and not _interpreting():
            missing = f"it takes CUDA tensors, got one on {query.device}"
        if missing is None and query.dtype not in _TRITON_DTYPES:
            missing = f"it computes in float16, bfloat16 and float32, got {query.dtype}"
        if missing is not None:
            raise ValueError(f"{source} 'triton' cannot be used: {missing}; choose 'auto' for the fastest that can")
    return requested


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


def criss_cross_attention(query: Tensor, key: Tensor, value: Tensor, *, backend: str = "auto") -> Tensor:
    """Attend from every position to the cross of positions that share at least two of its coordinates.

    ``out(u) = sum_i softmax_i(query(u) . key(i)) value(i)`` where i runs over the T + H + W - 2 positions
    that differ from u in at most one of (t, h, w); u itself is counted once and scores are not scaled
    (CCNet, arXiv 1811.11721, equations 1 and 2; the third axis as in its CCNet3D). With T = 1 it is the 2D
    operator of CCNet. Differentiable in all three arguments, once with the fast backends and as often as
    wanted with ``"axial"`` and ``"reference"``. Results and gradients are the same from run to run: no backend adds
    in an order left to chance.

    Args:
        query: ``[B, T, H, W, D]``. Channels last is the layout that measures fastest; a permuted view of a
            ``torch.channels_last_3d`` tensor has it without a copy.
        key: ``[B, T, H, W, D]``.
        value: ``[B, T, H, W, Dv]``.
        backend: ``"triton"`` (fused, CUDA), ``"tiled"`` (stock PyTorch, fastest on CPUs), ``"axial"`` (standard
            operators), ``"reference"`` (the definition, O(N^2) memory) or ``"auto"``: what the environment variable
            CCNET3D_ATTENTION_BACKEND names, else the fastest that exists here
            (see :func:`criss_cross_attention_backends`), and ``"axial"`` while a graph is exported.

    Returns:
        ``[B, T, H, W, Dv]``, in the dtype of the inputs, or in autocast's where that is on.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, an empty axis, a backend that is unknown
            or cannot be used.
        NotImplementedError: a second derivative, ``torch.func`` or forward mode through a fast backend that was
            asked for by name.
    """
    device_type = query.device.type
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
        query, key, value = (x.to(dtype) for x in (query, key, value))
        with torch.autocast(device_type, enabled=False):
            return criss_cross_attention(query, key, value, backend=backend)
    _check_inputs(query, key, value)
    name = _choose_backend(backend, query)
    if name == "reference":
        return criss_cross_attention_reference(query, key, value)
    if name == "axial":
        return axial_criss_cross_attention(query, key, value)
    return attention_op(query, key, value, name)[0]
