"""Polygons of masks against the rasterizer of the COCO API."""

from __future__ import annotations

import numpy as np
import pytest

from ccnet3d.masks.polygons import TOLERANCE, mask_polygons

pytest.importorskip("cv2", reason="OpenCV is an optional extra")
api = pytest.importorskip("pycocotools.mask", reason="pycocotools is an optional extra")


def fill(polygons: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    filled = np.zeros(shape, bool)
    for polygon in polygons:
        filled |= api.decode(api.frPyObjects([polygon.ravel().tolist()], *shape)[0]).astype(bool)
    return filled


@pytest.mark.parametrize("seed", range(100))
def test_polygons_without_tolerance_are_exact(seed: int) -> None:
    """Also with holes, regions in holes, and pixels that meet at corners."""
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 30, 2).tolist()
    mask = random.random((height, width)) < random.random()
    np.testing.assert_array_equal(fill(mask_polygons(mask, 0), mask.shape), mask)


def test_one_polygon_per_region_and_its_holes_are_not_filled() -> None:
    rows, columns = np.mgrid[:40, :60]
    disk = (rows - 20) ** 2 + (columns - 20) ** 2 < 300
    hole, island = (rows - 20) ** 2 + (columns - 20) ** 2 < 150, (rows - 20) ** 2 + (columns - 20) ** 2 < 40
    mask = (disk & ~hole) | island | (columns > 50)
    polygons = mask_polygons(mask)
    assert len(polygons) == 3
    assert not fill(polygons, mask.shape)[20, 10:14].any() or mask[20, 10:14].any()
    assert (fill(polygons, mask.shape) != mask).mean() < 0.01


def test_tolerance_drops_points_and_hardly_moves_outlines() -> None:
    rows, columns = np.mgrid[:200, :300]
    for mask in (
        (rows - 90) ** 2 / 60**2 + (columns - 140) ** 2 / 110**2 < 1,
        np.abs(rows - 0.37 * columns - 20) < 2,
        np.sin(rows / 9) + np.cos(columns / 14) > 0.3,
    ):
        exact, simple = mask_polygons(mask, 0), mask_polygons(mask)
        filled = fill(simple, mask.shape)
        assert (filled & mask).sum() / (filled | mask).sum() > 0.99
        assert sum(map(len, simple)) < 0.7 * sum(map(len, exact))


def test_thin_regions_remain() -> None:
    mask = np.zeros((20, 20), bool)
    mask[3, 3] = mask[10, 2:9] = mask[5:18, 15] = True
    np.testing.assert_array_equal(fill(mask_polygons(mask, TOLERANCE), mask.shape), mask)
    inverse = ~mask  # as holes
    np.testing.assert_array_equal(fill(mask_polygons(inverse, TOLERANCE), mask.shape), inverse)


def test_no_region() -> None:
    assert mask_polygons(np.zeros((5, 7), bool)) == []
