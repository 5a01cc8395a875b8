"""CPU helpers for the tiled backend: outputs in huge pages, and the faster of PyTorch's two float32 products."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["empty", "fast_float32_products", "multiplies_bfloat16"]

_HUGE_PAGE_BYTES = 2 << 20
_PAGE_BYTES = 4096
_MADV_HUGEPAGE = 14


def empty(*shape: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``torch.empty`` on the device of ``like``, on Linux in huge pages, as NumPy does for large arrays.

    The first write to new memory causes a page fault per page; with pages of 4 KiB that can take longer than the
    attention itself.
    """
    tensor = torch.empty(shape, dtype=dtype, device=like.device)
    size = tensor.numel() * tensor.element_size()
    if sys.platform == "linux" and tensor.device.type == "cpu" and size >= 2 * _HUGE_PAGE_BYTES:
        start = -(-tensor.data_ptr() // _PAGE_BYTES) * _PAGE_BYTES
        # Advice only: whether the kernel follows it changes the speed, not the results.
        _libc().madvise(ctypes.c_void_p(start), ctypes.c_size_t(tensor.data_ptr() + size - start), _MADV_HUGEPAGE)
    return tensor


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


@functools.cache
def multiplies_bfloat16() -> bool:
    """Return whether this CPU has a fast bfloat16 product."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


_lock = threading.Lock()
_users = 0
_precision_before = "none"


@contextlib.contextmanager
def fast_float32_products() -> Iterator[None]:
    """Let oneDNN compute float32 matrix products if its results are exact to float32.

    PyTorch multiplies float32 matrices with MKL unless reduced precision is allowed; then it calls oneDNN. On a CPU
    without AMX oneDNN still multiplies in full float32, on AMD twice as fast as MKL. The setting is process-wide, so it
    is changed only if a trial product shows that no precision is lost, and the last thread to leave restores it.
    """
    global _users, _precision_before
    if not _oneDNN_stays_exact():
        yield
        return
    setting = _matmul_setting()
    with _lock:
        if _users == 0:
            _precision_before = setting.fp32_precision
            setting.fp32_precision = "bf16"
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0 and setting.fp32_precision == "bf16":  # else other code has changed it meanwhile
                setting.fp32_precision = _precision_before


def _matmul_setting() -> Any:
    return getattr(torch.backends.mkldnn, "matmul", None)


@functools.cache
def _oneDNN_stays_exact() -> bool:  # noqa: N802
    """Multiply once with bfloat16 allowed: float32's error is below 1e-6, bfloat16's would be about 1e-3."""
    setting = _matmul_setting()
    if not torch.backends.mkldnn.is_available() or not hasattr(setting, "fp32_precision"):  # PyTorch before 2.9
        return False
    numbers = torch.arange(8 * 96 * 96, dtype=torch.float64).view(8, 96, 96)
    left, right = (numbers * 0.7).cos().float(), (numbers * 1.3).sin().float()
    with _lock:
        before = setting.fp32_precision
        setting.fp32_precision = "bf16"
        try:
            product = torch.bmm(left, right)
        finally:
            setting.fp32_precision = before
    exact = torch.bmm(left.double(), right.double())
    return bool((product - exact).norm() < 1e-6 * exact.norm())
