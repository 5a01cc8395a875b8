"""The library of C kernels, called without PyTorch's or Python's C interface, so that one build fits all versions.

Its sources are in ``sources/``; ``hatch_build.py`` compiles them where a wheel is built with a C compiler. Everything
that calls it has another way, in stock PyTorch, for all other installations.
"""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

__all__ = ["LIBRARY", "LIBRARY_PATH", "load_library"]

LIBRARY_PATH = Path(__file__).with_name("_native.so")
"""Where the compiled library is."""

_INTERFACE = 2
"""``INTERFACE`` of ``sources/problem.h``."""


def load_library(path: Path) -> ctypes.CDLL | None:
    """Return the library, or None if there is none for this system and these sources."""
    if platform.machine() != "x86_64" or not path.is_file():
        return None
    try:
        library = ctypes.CDLL(str(path))
        current = library.ccnet3d_interface() == _INTERFACE
    except (OSError, AttributeError):  # built for another system, or from older sources
        return None
    return library if current else None


# Loaded with the module: torch.compile traces the choice of a backend and could not follow the loading.
LIBRARY = load_library(LIBRARY_PATH)
"""The library, or None."""
