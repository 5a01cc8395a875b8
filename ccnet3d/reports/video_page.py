"""A video and its masks as one self-contained HTML file."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ccnet3d.errors import UserError
from ccnet3d.files import atomic_path
from ccnet3d.masks import SavedMasks, match_frames
from ccnet3d.reports._templates import load_template
from ccnet3d.reports.mask_statistics import MaskStatistics
from ccnet3d.video import VideoFrame, VideoReader
from ccnet3d.wording import count_of

__all__ = ["Matched", "clock", "spread", "write_video_page"]

_DEFAULT_FRAMES_PER_SECOND = 25.0
"""Playback speed of videos without a frame rate."""

Matched = tuple[VideoFrame, np.ndarray]
"""A frame and its mask, uint8 ``[H, W]``."""


@dataclass(frozen=True)
class _Picture:
    """A frame and its mask in the page, in Base64.

    The ids are not a PNG: some browsers alter what a script reads from a picture (against fingerprinting, or to fit the
    screen's colors), and an id off by one is another class.
    """

    index: int
    """Of the mask."""
    frame: str
    """JPEG."""
    mask: str
    """Class ids, one byte per pixel in rows, deflated."""


def write_video_page(
    masks: SavedMasks,
    reader: VideoReader,
    path: Path,
    *,
    title: str | None = None,
    max_width: int = 640,
    max_frames: int = 600,
    quality: int = 80,
    overwrite: bool = False,
    progress: Callable[[Iterable[Matched]], Iterable[Matched]] = iter,
) -> int:
    """Write a page that shows a video under its masks, with a timeline of the changes.

    The page grows on disk while the video is read; one frame is held at a time.

    Args:
        masks: of the video.
        reader: the open video that they were made from.
        path: the .html file.
        title: of the page; the name of the video by default.
        max_width: in pixels; wider pictures are scaled down to it.
        max_frames: most pictures in the page. If there are more masks, the pictures are spread evenly over them; the
            timeline covers all masks.
        quality: of the JPEGs, 1 to 95.
        overwrite: replace an existing file.
        progress: wraps the frames and masks, as tqdm does.

    Returns:
        The number of pictures in the page.

    Raises:
        UserError: a file that exists or is not .html, a number out of range, or a video that does not match the masks.
    """
    _check(path, max_width, max_frames, quality, overwrite=overwrite)
    shown = spread(len(masks), max_frames)
    statistics = MaskStatistics(masks.class_ids)
    times: list[float | None] = []

    def pictures() -> Iterator[_Picture]:
        pending = set(shown)
        for index, (frame, mask) in enumerate(progress(match_frames(reader, masks))):
            statistics.add(mask)
            times.append(frame.pts_seconds)
            if index in pending:
                yield _picture(index, frame.image, mask, max_width, quality)

    page = load_template("video.html").generate(
        title=title if title is not None else str(masks.summary.get("video") or reader.info.name),
        facts=_facts(masks, len(shown)),
        pictures=pictures(),
        data=lambda: _data(masks, statistics, shown, times),  # known when the pictures are written
    )
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(page)
    return len(shown)


def spread(count: int, at_most: int) -> list[int]:
    """Return at most ``at_most`` evenly spread indices in ``range(count)``; two or more include the first and the last.

    >>> spread(9, 3), spread(3, 9)
    ([0, 4, 8], [0, 1, 2])
    """
    if count <= at_most:
        return list(range(count))
    if at_most == 1:
        return [0]
    return [(2 * i * (count - 1) + at_most - 1) // (2 * (at_most - 1)) for i in range(at_most)]  # rounded


def clock(frame_indices: Iterable[int], times: Iterable[float | None], frames_per_second: float | None) -> list[float]:
    """Return when each frame is played, in seconds after the first one.

    Args:
        frame_indices: of the video, ascending.
        times: their presentation times; if one is missing or they do not increase, the frame rate decides.
        frames_per_second: frame rate of the video.

    >>> clock([2, 3, 7], [0.5, 0.75, 2.0], 30), clock([2, 3, 7], [0.5, None, 2.0], 10)
    ([0.0, 0.25, 1.5], [0.0, 0.1, 0.5])
    """
    indices, known = list(frame_indices), [time for time in times if time is not None]
    if len(known) == len(indices) and all(a < b for a, b in pairwise(known)):
        return [round(time - known[0], 4) for time in known]
    rate = frames_per_second or _DEFAULT_FRAMES_PER_SECOND
    return [round((index - indices[0]) / rate, 4) for index in indices]


def _check(path: Path, max_width: int, max_frames: int, quality: int, *, overwrite: bool) -> None:
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"the page must be an .html file, got {path}")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the page another name")
    if path.is_symlink():
        raise UserError(f"{path} is a link, which is not replaced; give the page another name")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists; give the page another name, or --overwrite to replace it")
    if max_width < 1 or max_frames < 1:
        raise UserError(f"width and frames must be at least 1, got {max_width} and {max_frames}")
    if not 1 <= quality <= 95:
        raise UserError(f"the JPEG quality must be in 1 to 95, got {quality}")


def _picture(index: int, image: np.ndarray, mask: np.ndarray, max_width: int, quality: int) -> _Picture:
    height, width = mask.shape
    frame = Image.fromarray(image)
    ids = Image.fromarray(mask)
    if width > max_width:
        size = (max_width, max(1, round(height * max_width / width)))
        frame = frame.resize(size, Image.Resampling.LANCZOS)
        ids = ids.resize(size, Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    frame.save(buffer, "JPEG", quality=quality)
    texts = [base64.b64encode(data).decode() for data in (buffer.getvalue(), zlib.compress(ids.tobytes()))]
    return _Picture(index, *texts)


def _facts(masks: SavedMasks, pictures: int) -> str:
    summary = masks.summary
    parts = [count_of(len(masks), "mask")]
    if summary.get("width") and summary.get("height"):
        parts.append(f"{summary['width']} x {summary['height']} pixels")
    if summary.get("frames_per_second"):
        parts.append(f"{summary['frames_per_second']:.4g} frames per second")
    if pictures < len(masks):
        parts.append(f"pictures of {pictures} evenly spread frames, the timeline covers all masks")
    return " \u00b7 ".join(parts)


def _data(masks: SavedMasks, statistics: MaskStatistics, shown: list[int], times: list[float | None]) -> dict[str, Any]:
    """Return the data of the page's script; shares are rounded to 1e-5, one pixel of 0.1 megapixels."""
    described = zip(masks.class_ids, masks.class_names, masks.palette, statistics.mean_shares(), strict=True)
    return {
        "numbers": masks.frame_indices,
        "seconds": times,
        "clock": clock(masks.frame_indices, times, masks.summary.get("frames_per_second")),
        "pictures": shown,
        "classes": [
            {"id": class_id, "name": name, "color": color, "mean": round(mean, 5)}
            for class_id, name, color, mean in described
        ],
        "shares": [[round(share, 5) for share in row] for row in statistics.shares],
        "change": [None if share is None else round(share, 5) for share in statistics.change],
        "flicker": [None if share is None else round(share, 5) for share in statistics.flicker],
    }
