"""What a format of masks on disk is, and what the formats share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ccnet3d.errors import UserError

__all__ = [
    "OTHER",
    "RUN_AGAIN",
    "IndexedMasks",
    "MaskClasses",
    "MaskFormat",
    "MaskSequence",
    "Palette",
    "check_size",
    "damaged",
]

OTHER = 255
"""Id of pixels of classes that were not asked for."""

RUN_AGAIN = "run ccnet3d-infer again with --overwrite"

_LARGEST_SIDE = 1 << 16
_MOST_PIXELS = 1 << 28
"""Of a mask that is read: 8K video has 2^25. Larger sizes in a file are damage, or an attack on memory."""

Palette = Sequence[tuple[int, int, int]]

IndexedMasks = Iterable[tuple[int, np.ndarray]]
"""Frame indices and masks, uint8 ``[H, W]``, in order."""


@dataclass(frozen=True)
class MaskClasses:
    """The classes of a run."""

    names: tuple[str, ...]
    """Name of each class of the model, by id."""
    palette: Palette
    """RGB of each class of the model, by id."""
    shown: tuple[int, ...]
    """Ids of the classes that were asked for; pixels of all others are ``OTHER``."""


@dataclass(frozen=True)
class MaskSequence:
    """The masks of a video, without their pixels: what the writer of a file needs to know."""

    classes: MaskClasses
    frame_indices: Sequence[int]
    """The frame index of each mask, ascending."""
    size: tuple[int, int]
    """Height and width of the first mask in pixels."""
    frames_per_second: float | None
    image_names: Sequence[str] | None = None
    """The file of each mask's frame, relative to the folder of all; None for a video."""
    source: str = ""
    """The name of the video, or of the folder of the images."""


@dataclass(frozen=True)
class MaskFormat:
    """One way to store the masks of a video; all of them are in ``ccnet3d.masks.FORMATS``."""

    name: str
    """As ``--format`` and ``summary.json`` spell it."""
    several_sizes: bool
    """Whether masks of one video may differ in size."""
    read: Callable[[Path, Sequence[int]], Iterator[np.ndarray]] | None
    """Yield the masks of the given frame indices, uint8 ``[H, W]``, from the path that :meth:`path` returns; None where
    the format cannot be read back. Raises UserError for a damaged file.
    """
    file_name: str | None = None
    """Name of the one file of all masks; None where each mask stays a PNG of its own."""
    write: Callable[[Path, IndexedMasks, MaskSequence], None] | None = None
    """Write the one file, atomically; None where there is none."""
    check: Callable[[MaskClasses], None] = lambda _: None
    """Raise UserError if the format cannot be written for these classes or on this machine; called before anything is
    written.
    """
    check_images: Callable[[Sequence[str]], None] = lambda _: None
    """Raise UserError if the format cannot be written for images of these names; called before anything is written."""

    def path(self, folder: Path) -> Path:
        """Return where the masks of the run in ``folder`` are: the one file, or the folder of the PNGs."""
        return folder / self.file_name if self.file_name else folder


def damaged(path: Path, reason: object) -> UserError:
    """Return the error of a file that is not what a run wrote."""
    return UserError(f"{path} is damaged or not what ccnet3d-infer wrote ({reason}); {RUN_AGAIN}")


def check_size(height: object, width: object) -> None:
    """Check the size of masks that a file claims, before they take memory.

    Raises:
        ValueError: no whole numbers, or out of bounds.
    """
    if not (type(height) is int and type(width) is int and 0 < height <= _LARGEST_SIDE and 0 < width <= _LARGEST_SIDE):
        raise ValueError(f"its masks claim {str(width)[:20]}x{str(height)[:20]} pixels")
    if height * width > _MOST_PIXELS:
        raise ValueError(f"its masks claim {width}x{height} pixels, more than {_MOST_PIXELS}")
