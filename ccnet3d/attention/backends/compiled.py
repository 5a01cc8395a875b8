"""The compiled backend for CPUs: a small C library that a wheel may contain, called without PyTorch's C++ interface.

Stock PyTorch multiplies short lines at a third of the speed of large matrices, and it writes every intermediate result
to memory. The library attends to one line (a row or a column) at a time, with its scores in cache, and merges rows,
columns and the time axis by their log-sum-exp. Where an installation has no library, ``"auto"`` chooses the tiled
backend. The backward pass is that of the tiled backend, except for the time axis, whose lines are too short for
products of matrices.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from ccnet3d.attention.backends import cpu
from ccnet3d.attention.backends.backend import FusedBackend
from ccnet3d.attention.backends.tiled import (
    LONGEST_KEPT_CLIP,
    Kept,
    position_tiles,
    tiled_backward,
    time_backward,
)
from ccnet3d.native import LIBRARY

__all__ = ["BACKEND", "compiled_backward", "compiled_forward"]

_KERNELS = {torch.float32: 1, torch.bfloat16: 2}
"""Bit of each dtype in what ``ccnet3d_supported`` returns."""

_Strides = ctypes.c_long * 4


class _Problem(ctypes.Structure):
    """``Problem`` of ``ccnet3d/native/sources/problem.h``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("query", "key", "value", "output", "log_sum_exp")),
        *((name, ctypes.c_long) for name in ("batch", "time", "height", "width", "channels", "value_channels")),
        *((name, _Strides) for name in ("query_strides", "key_strides", "value_strides")),
    )


class _TimeGradients(ctypes.Structure):
    """``TimeGradients`` of ``ccnet3d/native/sources/problem.h``."""

    _fields_ = (
        ("clip", _Problem),
        ("grad", ctypes.c_void_p),
        ("grad_strides", _Strides),
        *((name, ctypes.c_void_p) for name in ("delta", "weights", "grad_weights")),
    )


_library = LIBRARY
_supported: int | None = None if _library is None else int(_library.ccnet3d_supported())


def _why_unavailable() -> str | None:
    if _supported is None:
        return "this installation has no compiled kernels; they need x86-64 Linux and a C compiler when it is built"
    return None if _supported else "this CPU has no AVX2"


def _why_unsupported(query: Tensor) -> str | None:
    if query.device.type not in ("cpu", "meta"):
        return f"it computes on CPUs, and the tensors are on {query.device}"
    if query.dtype not in _KERNELS:
        return f"it computes in float32 and bfloat16, not in {query.dtype}"
    if _supported and not _supported & _KERNELS[query.dtype]:
        return "it computes in bfloat16 on CPUs with AMX only"
    return None


def _channels_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _problem(query: Tensor, key: Tensor, value: Tensor, output: Tensor, log_sum_exp: Tensor) -> _Problem:
    pointers = (x.data_ptr() for x in (query, key, value, output, log_sum_exp))
    strides = (_Strides(*x.stride()[:4]) for x in (query, key, value))
    return _Problem(*pointers, *query.shape, value.shape[-1], *strides)


def _call(entry: str, problem: ctypes.Structure, dtype: torch.dtype) -> None:
    assert _library is not None  # why_unavailable has been asked
    threads = ctypes.c_long(torch.get_num_threads())
    if getattr(_library, entry)(ctypes.byref(problem), int(dtype == torch.bfloat16), threads):
        raise MemoryError("criss_cross_attention: not enough memory for one line of scores per thread")


def compiled_forward(
    query: Tensor, key: Tensor, value: Tensor, *, entry: str = "ccnet3d_attend"
) -> tuple[Tensor, Tensor]:
    """Return the output ``[B, T, H, W, Dv]`` and the log-sum-exp of every position's scores, ``[B, T, H, W]``.

    :func:`ccnet3d.attention.criss_cross_attention` documents the inputs; ``entry`` is the library's function.
    """
    query, key, value = (_channels_contiguous(x.detach()) for x in (query, key, value))
    output = cpu.empty(*value.shape, like=value, dtype=value.dtype)
    log_sum_exp = cpu.empty(*query.shape[:4], like=query, dtype=torch.float32)
    _call(entry, _problem(query, key, value, output, log_sum_exp), value.dtype)
    return output, log_sum_exp


def compiled_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor | None,
    log_sum_exp: Tensor,
    *,
    entry: str = "ccnet3d_time_gradients",
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value, as :func:`tiled_backward` does."""
    grad, query, key, value = (_channels_contiguous(x.detach()) for x in (grad, query, key, value))
    time, height, width = query.shape[1:4]

    def time_axis(g: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor, *gradients: Tensor) -> Kept:
        clip = _problem(*(x.unsqueeze(0) for x in (q, k, v, gradients[-1], lse)))
        maps = torch.empty(2, height * width, time, time, dtype=torch.float32, device="cpu")
        pointers = (x.data_ptr() for x in (delta, *maps))
        _call(entry, _TimeGradients(clip, g.data_ptr(), _Strides(0, *g.stride()[:3]), *pointers), value.dtype)
        return [(maps[0, some], maps[1, some]) for some in position_tiles(height * width)]

    is_short = 1 < time <= LONGEST_KEPT_CLIP
    return tiled_backward(
        grad, query, key, value, output, log_sum_exp, time_axis=time_axis if is_short else time_backward
    )


BACKEND = FusedBackend(
    name="compiled",
    description="C, line by line, on x86-64 CPUs: float32 (AVX2, AVX-512) and bfloat16 (AMX)",
    why_unavailable=_why_unavailable,
    why_unsupported=_why_unsupported,
    auto_devices=("cpu",),
    forward=compiled_forward,
    backward=compiled_backward,
)
