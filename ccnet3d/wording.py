"""Counts in messages."""

from __future__ import annotations

__all__ = ["count_of"]


def count_of(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun in the right number.

    >>> count_of(1, "frame"), count_of(2, "frame"), count_of(0, "class", "classes")
    ('1 frame', '2 frames', '0 classes')
    """
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"
