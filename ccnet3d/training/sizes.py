"""Working size and crops for frames that a recipe was not written for."""

from __future__ import annotations

import math
from dataclasses import replace

from ccnet3d.errors import UserError
from ccnet3d.training.recipe import DataRecipe

__all__ = ["check_sizes", "fitted_sizes"]

_CELL = 32
"""Sizes are multiples of the coarsest stride of the backbones."""
_MOST_ENLARGED = 2.0
"""Recipes enlarge frames up to 1.7 times; a frame enlarged further costs time and shows nothing more."""
_SAME_ASPECT = 1.15
"""3:2 counts as 4:3; 16:9 does not."""
_MOST_PIXELS = 4
"""Pixels of a crop or a working size, as a factor of those of a frame, and of the smallest of these below."""
_SMALL_FRAME = (480, 640)


def fitted_sizes(data: DataRecipe, frame_size: tuple[int, int]) -> DataRecipe:
    """Return the section with a working size and crops that fit frames of a size; unchanged if they fit already.

    The working size gets the aspect ratio of the frames and keeps its area, unless the frames would be enlarged more
    than twofold along a side. The crops change with it.

    >>> fitted = fitted_sizes(DataRecipe(input_size=(480, 640), fit_sizes=True), (96, 128))
    >>> fitted.input_size, fitted.augmentation.crop_size
    ((192, 256), (128, 160))

    Args:
        data: of a recipe.
        frame_size: height and width of the frames, in pixels.
    """
    (height, width), (frame_height, frame_width) = data.input_size, frame_size
    enlarged = math.sqrt(height * width / (frame_height * frame_width))
    change = (frame_width / frame_height) / (width / height)  # of the aspect ratio
    if not data.fit_sizes or (enlarged <= _MOST_ENLARGED and 1 / _SAME_ASPECT <= change <= _SAME_ASPECT):
        return data
    scale = min(1.0, _MOST_ENLARGED / enlarged)
    crop = data.augmentation
    narrow, wide = crop.crop_aspect
    augmentation = replace(
        crop, crop_size=_stretched(crop.crop_size, scale, change), crop_aspect=(narrow * change, wide * change)
    )
    return replace(data, input_size=_stretched(data.input_size, scale, change), augmentation=augmentation)


def check_sizes(data: DataRecipe, frame_size: tuple[int, int] = (0, 0)) -> None:
    """Check that crops and the working size are not far larger than the frames: they would only fill the memory.

    Args:
        data: of a recipe.
        frame_size: height and width of the frames, in pixels; zeros if it is not known.

    Raises:
        UserError: one of them is.
    """
    known = [math.prod(size) for size in (frame_size, _SMALL_FRAME)]
    sizes = {"data.input_size": data.input_size, "data.augmentation.crop_size": data.augmentation.crop_size}
    for name, (height, width) in sizes.items():
        if height * width > _MOST_PIXELS * max(known):
            frames = f"frames of {frame_size[0]}x{frame_size[1]}" if any(frame_size) else "frames of unknown size"
            raise UserError(
                f"{name} must have at most {_MOST_PIXELS * max(known):,} pixels for {frames}, got {height}x{width}; "
                "a larger one takes memory and shows nothing more"
            )


def _stretched(size: tuple[int, int], scale: float, change: float) -> tuple[int, int]:
    """Return a size with its sides scaled and its aspect ratio changed, in multiples of the coarsest stride."""
    height, width = size[0] * scale / math.sqrt(change), size[1] * scale * math.sqrt(change)
    return max(_CELL, _CELL * round(height / _CELL)), max(_CELL, _CELL * round(width / _CELL))
