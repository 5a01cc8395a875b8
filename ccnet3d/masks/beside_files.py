"""What a run writes beside its folder of masks: the overlay, the video with alpha, the table of class shares."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from ccnet3d.errors import OutputError, UserError
from ccnet3d.masks.mask_format import OTHER, MaskClasses
from ccnet3d.masks.palette import paint
from ccnet3d.masks.shares import ShareWriter
from ccnet3d.video import AlphaVideoWriter, VideoFrame, VideoInfo, VideoWriter

__all__ = ["BesideFile", "open_beside"]


@dataclass(frozen=True)
class BesideFile:
    """A file that gets a part for every frame, and appears when its writer's block ends without an error."""

    key: str
    """Of its name in the summary."""
    path: Path
    writer: AbstractContextManager[object]
    add: Callable[[VideoFrame, np.ndarray, np.ndarray], None]
    """Called with a frame, its mask, uint8 ``[H, W]``, and the pixels of each id, int ``[256]``."""


def open_beside(
    classes: MaskClasses,
    video: VideoInfo,
    *,
    overlay: Path | None = None,
    opacity: float = 0.5,
    alpha: Path | None = None,
    shares: Path | None = None,
) -> list[BesideFile]:
    """Return the files that are asked for; none is opened yet.

    Args:
        classes: of the model, and those that masks show.
        video: its path, frame rate and pixel aspect.
        overlay: an .mp4 file for the video with its masks painted over it.
        opacity: share of the class color in it.
        alpha: a .webm or .mov file for the video with only the shown classes visible.
        shares: a .csv or .parquet file for the share of each class in each frame.

    Raises:
        UserError: a name with another ending, two files of one name, the video itself, or all classes in ``alpha``.
    """
    for one, other in combinations([path for path in (overlay, alpha, shares) if path], 2):
        if one.absolute() == other.absolute():
            raise UserError(f"two outputs are named {one}; give them different names")
    files = []
    if overlay:
        painted = VideoWriter(overlay, video.frames_per_second, video.pixel_aspect, endless=video.live)

        def add_painted(frame: VideoFrame, mask: np.ndarray, _: np.ndarray) -> None:
            painted.write(paint(frame.image, mask, classes.palette, opacity), frame.pts_seconds)

        files.append(BesideFile("overlay_file", overlay, painted, add_painted))
    if alpha:
        if len(classes.shown) == len(classes.names):
            raise UserError("a video with alpha shows some classes; name them, as in --classes Car,Pedestrian")
        cut = AlphaVideoWriter(alpha, video.frames_per_second, video.pixel_aspect)

        def add_cut(frame: VideoFrame, mask: np.ndarray, _: np.ndarray) -> None:
            cut.write(frame.image, mask != OTHER, frame.pts_seconds)

        files.append(BesideFile("alpha_file", alpha, cut, add_cut))
    if shares:
        table = ShareWriter(shares, classes.shown, [classes.names[i] for i in classes.shown])

        def add_row(frame: VideoFrame, _: np.ndarray, pixels: np.ndarray) -> None:
            table.add(frame.index, frame.pts_seconds, pixels)

        files.append(BesideFile("shares_file", shares, table, add_row))
    for file in files:
        if video.path and _are_same(file.path, video.path):
            name = file.key.removesuffix("_file")
            raise UserError(f"the {name} {file.path} would replace the video itself; give it another name")
    return files


def _are_same(output: Path, video: Path) -> bool:
    try:
        return output.exists() and video.exists() and output.samefile(video)
    except OSError as error:
        raise OutputError(error.errno, error.strerror, str(output)) from error
