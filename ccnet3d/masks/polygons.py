"""Regions of a mask as polygons."""

from __future__ import annotations

from typing import Any

import numpy as np

from ccnet3d.errors import UserError

__all__ = ["TOLERANCE", "import_cv2", "mask_polygons"]

TOLERANCE = 0.35
"""In pixels. Just less than half the diagonal of a pixel, from where on the outlines of thin things move."""


def import_cv2() -> Any:
    """Import OpenCV, an optional dependency.

    Raises:
        UserError: it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise UserError("polygons need OpenCV; run: pip install 'ccnet3d[evaluate]'") from error
    return cv2


def mask_polygons(inside: np.ndarray, tolerance: float = TOLERANCE) -> list[np.ndarray]:
    """Return the polygons around the connected regions of a mask.

    A polygon runs along the edges of pixels: pixel (x, y) covers the square from (x, y) to (x + 1, y + 1). Holes are
    part of their polygon, joined to its outline by a line that is passed twice, because many formats have no holes.
    Pixels that meet at a corner are connected.

    Args:
        inside: bool ``[H, W]``.
        tolerance: how far the outline may move when points are left out, in pixels.

    Returns:
        For each region, its points, float64 ``[N, 2]``, x and y, in multiples of half a pixel.

    >>> import pytest; cv2 = pytest.importorskip("cv2")
    >>> [polygon.tolist() for polygon in mask_polygons(np.array([[False, True, True]]))]
    [[[1.0, 0.0], [1.0, 1.0], [3.0, 1.0], [3.0, 0.0]]]
    """
    cv2 = import_cv2()
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not len(rows):
        return []
    top, left = int(rows[0]), int(columns[0])
    crop = inside[top : rows[-1] + 1, left : columns[-1] + 1]
    # OpenCV's contours run through the centers of pixels. In a grid with points at the corners, the middles of the
    # sides and the centers of the mask's pixels, each of which covers 3x3 points, they run along the sides.
    grid = np.zeros((2 * crop.shape[0] + 3, 2 * crop.shape[1] + 3), np.uint8)
    grid[2:-2:2, 2:-2:2] = crop
    grid = cv2.dilate(grid, np.ones((3, 3), np.uint8))
    contours, hierarchy = cv2.findContours(grid, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings = [_simplify(contour, 2 * tolerance) for contour in contours]
    holes: dict[int, list[np.ndarray]] = {}
    for ring, (_, _, _, parent) in zip(rings, hierarchy[0], strict=True):
        holes.setdefault(int(parent), []).append(ring)
    return [_join(rings[i], holes.get(i, [])) / 2 + (left - 0.5, top - 0.5) for i in _outer(hierarchy[0])]


def _outer(hierarchy: np.ndarray) -> list[int]:
    return [int(i) for i in np.flatnonzero(hierarchy[:, 3] < 0)]


def _simplify(contour: np.ndarray, tolerance: float) -> np.ndarray:
    """Return the points of a contour, int ``[N, 2]``, without those that matter less than ``tolerance``."""
    simple = import_cv2().approxPolyDP(contour, tolerance, closed=True)
    return np.asarray(contour if len(simple) < 3 else simple).reshape(-1, 2)


def _join(ring: np.ndarray, holes: list[np.ndarray]) -> np.ndarray:
    """Insert each hole into the ring, at the point that is nearest to one of the hole."""
    for hole in sorted(holes, key=lambda hole: tuple(hole.min(axis=0))):
        gaps = np.square(ring[:, None] - hole[None]).sum(axis=2)
        i, j = np.unravel_index(gaps.argmin(), gaps.shape)
        ring = np.concatenate([ring[: i + 1], hole[j:], hole[: j + 1], ring[i:]])
    return ring
