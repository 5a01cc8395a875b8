"""Kernels in C for x86-64 CPUs on Linux: a small library that a wheel may contain."""

from ccnet3d.native.library import LIBRARY, LIBRARY_PATH, load_library

__all__ = ["LIBRARY", "LIBRARY_PATH", "load_library"]
