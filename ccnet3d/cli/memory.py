"""Memory of the process that runs a command."""

from __future__ import annotations

import ctypes
import gc
import platform
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["keep_freed_memory", "without_collection"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep freed memory in this process.

    By default every block above 32 MB is returned to the system and mapped again page by page; on a CPU that is up to a
    fifth of a network's time. Threads of frames would do so too: their heaps have 64 MB, and a frame needs about as
    much. Other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if platform.libc_ver()[0] == "glibc" else None
    if mallopt:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
        mallopt(_M_ARENA_MAX, 1)  # one heap for all threads


@contextmanager
def without_collection() -> Iterator[None]:
    """Search no reference cycles in the block, nor later in what exists at its end; for imports and models, which stay.

    PyTorch has a million objects, among which Python would search many times while they are made.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.freeze()
            gc.enable()
