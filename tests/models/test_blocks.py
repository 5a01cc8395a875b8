"""Levels of different strides: a cell of a coarse level stays where its pixels are, whatever the size of the frame."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ccnet3d.models.blocks import average_like, resize_like


def centers(count: int, stride: int) -> torch.Tensor:
    """Return the pixel coordinates of the centers of cells, ``[count]``."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) * stride


@pytest.mark.parametrize("size", [(608, 800), (640, 848), (600, 800), (360, 480), (375, 1242)], ids=str)
@pytest.mark.parametrize(("coarse", "fine"), [(32, 8), (16, 8), (8, 4), (32, 32), (4, 1)])
def test_an_enlarged_level_stays_in_place(size: tuple[int, int], coarse: int, fine: int) -> None:
    """A level that contains the coordinates of its cells becomes one with those of the finer cells, edges aside."""
    (rows, columns), (fine_rows, fine_columns) = ([-(-side // stride) for side in size] for stride in (coarse, fine))
    level = torch.stack(torch.meshgrid(centers(rows, coarse), centers(columns, coarse), indexing="ij"))[None]
    found = resize_like(level, torch.empty(1, 1, fine_rows, fine_columns))
    expected = torch.stack(torch.meshgrid(centers(fine_rows, fine), centers(fine_columns, fine), indexing="ij"))[None]
    clamped = [e.clamp(level[0, i].min(), level[0, i].max()) for i, e in enumerate(expected[0])]
    torch.testing.assert_close(found[0], torch.stack(clamped))


def test_a_level_without_incomplete_cells_is_stretched() -> None:
    """A backbone that drops incomplete cells (26 of 53 at half the stride) has no cells to crop."""
    level = torch.rand(1, 2, 26, 26)
    like = torch.empty(1, 1, 53, 53)
    torch.testing.assert_close(resize_like(level, like), F.interpolate(level, size=(53, 53), mode="bilinear"))
    assert average_like(torch.rand(1, 2, 53, 53), level).shape == (1, 2, 26, 26)


@pytest.mark.parametrize(("height", "width"), [(53, 106), (7, 8), (5, 3)])
def test_an_average_over_cells(height: int, width: int) -> None:
    """Each coarse cell is the mean of the fine ones that lie in it; at the edges there are fewer."""
    x = torch.rand(2, 3, height, width, dtype=torch.float64)
    rows, columns = -(-height // 2), -(-width // 2)
    found = average_like(x, torch.empty(2, 1, rows, columns))
    for row in range(rows):
        for column in range(columns):
            cell = x[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            torch.testing.assert_close(found[:, :, row, column], cell.mean(dim=(2, 3)))
