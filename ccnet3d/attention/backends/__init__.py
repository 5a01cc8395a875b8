"""The backends of :func:`ccnet3d.attention.criss_cross_attention`, and the choice between them.

To add a backend, write a module with its ``BACKEND`` and add that to :data:`BACKENDS`.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ccnet3d.attention.backends import axial, compiled, reference, tiled, triton
from ccnet3d.attention.backends.backend import ComposedBackend, FusedBackend

__all__ = ["BACKENDS", "BACKEND_VARIABLE", "choose_backend", "fused_backend", "is_traced", "is_transformed"]

BACKENDS: tuple[ComposedBackend | FusedBackend, ...] = (
    triton.BACKEND,
    compiled.BACKEND,
    tiled.BACKEND,
    axial.BACKEND,
    reference.BACKEND,
)
"""All backends, fastest first: ``"auto"`` chooses the first that can be used."""

BACKEND_VARIABLE = "CCNET3D_ATTENTION_BACKEND"
"""Environment variable that replaces ``"auto"``."""

_BY_NAME = {backend.name: backend for backend in BACKENDS}


def is_transformed() -> bool:
    """Return whether torch.func or forward-mode autograd is active; fused backends have no rules for them."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_traced() -> bool:
    """Return whether a graph is being recorded that must run without this package."""
    return torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None


def fused_backend(name: str) -> FusedBackend:
    """Return the fused backend of this name.

    Raises:
        ValueError: there is none.
    """
    backend = _BY_NAME.get(name)
    if not isinstance(backend, FusedBackend):
        fused = sorted(b.name for b in BACKENDS if isinstance(b, FusedBackend))
        raise ValueError(f"unknown fused backend {name!r}; choose one of {fused}")
    return backend


def choose_backend(requested: str, query: Tensor) -> ComposedBackend | FusedBackend:
    """Return the backend that computes for ``query``.

    Args:
        requested: a backend's name, or ``"auto"`` for the one that the environment variable names, else the fastest.
        query: ``[B, T, H, W, D]``; its device and dtype count.

    Raises:
        ValueError: the backend is unknown or cannot be used.
        NotImplementedError: a fused backend was requested by name under torch.func or forward-mode autograd.
    """
    source = "backend"
    if requested == "auto":
        requested, source = os.environ.get(BACKEND_VARIABLE) or "auto", BACKEND_VARIABLE
    if requested == "auto":
        return _fastest(query)
    backend = _BY_NAME.get(requested)
    if backend is None:
        raise ValueError(f"unknown {source} {requested!r}; choose 'auto' or one of {sorted(_BY_NAME)}")
    if isinstance(backend, FusedBackend) and is_transformed():  # forward mode would drop the tangents silently
        raise NotImplementedError(
            f"{source} {requested!r} has no rules for torch.func and forward-mode autograd; use 'auto' or 'axial'"
        )
    reason = backend.why_unavailable() or backend.why_unsupported(query)
    if reason is not None:
        raise ValueError(f"{source} {requested!r} cannot be used: {reason}; choose 'auto' for the fastest that can")
    return backend


def _fastest(query: Tensor) -> ComposedBackend | FusedBackend:
    standard_operators_only = is_transformed() or is_traced()
    for backend in BACKENDS:
        if standard_operators_only and isinstance(backend, FusedBackend):
            continue
        if backend.auto_devices is not None and query.device.type not in backend.auto_devices:
            continue
        if backend.why_unsupported(query) is None and backend.why_unavailable() is None:
            return backend
    raise AssertionError("the reference runs everywhere")
