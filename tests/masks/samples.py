"""Masks, classes and sequences for the tests of the formats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ccnet3d.masks import MaskClasses, MaskSequence

PALETTE = ((90, 140, 60), (200, 40, 40), (40, 40, 220))
NAMES = ("ground", "box", "rail")
CLASSES = MaskClasses(NAMES, PALETTE, (0, 1, 2))
SIZES = [(1, 1), (1, 7), (13, 1), (17, 23), (48, 64)]


def invent(height: int, width: int, seed: int = 0, ids: tuple[int, ...] = (0, 1, 2, 255)) -> np.ndarray:
    """A mask of random class ids."""
    return np.array(ids, np.uint8)[np.random.default_rng(seed).integers(0, len(ids), (height, width))]


def indexed(count: int, height: int, width: int) -> list[tuple[int, np.ndarray]]:
    """Frame indices 1, 4, 7, ... with random masks."""
    return [(3 * n + 1, invent(height, width, n)) for n in range(count)]


def sequence_of(
    masks: Sequence[tuple[int, np.ndarray]], classes: MaskClasses = CLASSES, rate: float | None = None
) -> MaskSequence:
    size = masks[0][1].shape
    return MaskSequence(classes, [index for index, _ in masks], (size[0], size[1]), rate)
