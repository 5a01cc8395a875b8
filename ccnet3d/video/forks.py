"""What a forked process inherits must not be freed there: that would wait for threads which did not come along."""

from __future__ import annotations

import os
from typing import Any
from weakref import WeakSet

_open: WeakSet[Any] = WeakSet()
_inherited: list[Any] = []


def keep_over_forks(opened: Any) -> None:
    """Note something that owns threads, so that a child process never frees its copy."""
    _open.add(opened)


def _in_child() -> None:
    _inherited.extend(_open)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
