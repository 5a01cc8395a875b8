"""Masks as palette PNGs, one per frame: the default format, and how every run keeps its masks until it is complete."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ccnet3d.errors import UserError
from ccnet3d.masks.mask_format import RUN_AGAIN, MaskFormat
from ccnet3d.masks.palette import decode_mask

__all__ = ["PNG", "mask_path", "read_masks", "saved_frame_indices"]


def mask_path(folder: Path, frame_index: int) -> Path:
    """Return the path of a frame's mask."""
    return folder / f"{frame_index:06d}.png"


def saved_frame_indices(folder: Path) -> list[int]:
    """Return the frame indices of the masks in a folder, ascending; other images in it are ignored."""
    paths = (path for path in folder.glob("*.png") if path.stem.isdecimal() and len(path.stem) >= 6)
    return sorted(int(path.stem) for path in paths if _has_palette(path))


def _has_palette(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return image.mode == "P"
    except Exception:  # Pillow raises almost anything for damage
        return False


def read_masks(folder: Path, frame_indices: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the masks of the given frames, uint8 ``[H, W]``.

    Raises:
        UserError: one is missing or damaged.
    """
    for index in frame_indices:
        try:
            mask = decode_mask(mask_path(folder, index))
        except UserError as error:
            raise UserError(f"{error}; {RUN_AGAIN}") from error
        yield mask


PNG = MaskFormat("png", several_sizes=True, read=read_masks)
