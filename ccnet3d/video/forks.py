"""Fork safety: a child process never frees inherited decoder handles, whose threads do not exist there."""

from __future__ import annotations

import os
from typing import Any
from weakref import WeakSet

__all__ = ["keep_over_forks"]

_open: WeakSet[Any] = WeakSet()
_inherited: list[Any] = []


def keep_over_forks(opened: Any) -> None:
    """Register an object that owns threads; freeing it in a child process would wait for them forever."""
    _open.add(opened)


def _in_child() -> None:
    _inherited.extend(_open)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
