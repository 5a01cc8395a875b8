"""Masks on disk: palette PNGs, an overlay video, a summary."""

from __future__ import annotations

import io
import json
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import ccnet3d
from ccnet3d.files import write_atomically
from ccnet3d.inference.segmenter import VideoSegmenter
from ccnet3d.video import VideoFrame, VideoReader, VideoWriter

Palette = Sequence[tuple[int, int, int]]

SUMMARY_NAME = "summary.json"


def encode_mask(mask: np.ndarray, palette: Palette) -> bytes:
    """A palette PNG whose pixel values are the class ids.

    Args:
        mask: uint8 ``[H, W]``.
        palette: RGB of each class.
    """
    image = Image.fromarray(mask)
    image.putpalette([channel for color in palette for channel in color])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=2)
    return buffer.getvalue()


def blend(image: np.ndarray, mask: np.ndarray, palette: Palette, opacity: float = 0.5) -> np.ndarray:
    """Paint the classes over a frame.

    Args:
        image: uint8 ``[H, W, 3]``, RGB.
        mask: uint8 ``[H, W]``.
        palette: RGB of each class.
        opacity: share of the class colour, in [0, 1].

    Returns:
        uint8 ``[H, W, 3]``.
    """
    colors = np.asarray(palette, dtype=np.float32)[mask]
    return (image * (1 - opacity) + colors * opacity + 0.5).astype(np.uint8)


def prepare_folder(folder: Path, *, overwrite: bool) -> None:
    """Make the output folder, and refuse or remove masks of an earlier run.

    Raises:
        ValueError: it holds masks and ``overwrite`` is off, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the output folder {folder}: {error.strerror}") from error
    earlier = [path for path in folder.glob("*.png") if _is_mask(path)]
    earlier += [path for path in (folder / SUMMARY_NAME,) if path.exists()]
    if earlier and not overwrite:
        raise ValueError(
            f"{folder} holds the masks of an earlier run; give another folder, or --overwrite to replace them"
        )
    for path in earlier:
        path.unlink()


def _is_mask(path: Path) -> bool:
    """Whether this module may have written the file: a number of six digits or more, and a palette image."""
    if not (path.stem.isdecimal() and len(path.stem) >= 6):
        return False
    try:
        with Image.open(path) as image:
            return image.mode == "P"
    except OSError:
        return False


def _check_overlay(overlay: Path, video: Path, *, overwrite: bool) -> None:
    if overlay.exists() and video.exists() and overlay.samefile(video):
        raise ValueError(f"the overlay {overlay} would replace the video itself; give it another name")
    if overlay.exists() and not overwrite:
        raise ValueError(f"{overlay} exists; give the overlay another name, or --overwrite to replace it")


def write_masks(
    reader: VideoReader,
    segmenter: VideoSegmenter,
    folder: Path,
    *,
    overlay: Path | None = None,
    overwrite: bool = False,
    progress: Callable[[Iterable[VideoFrame]], Iterable[VideoFrame]] = iter,
) -> dict[str, Any]:
    """Segment a video into a folder: ``000000.png`` and so on, one for each decoded frame, and ``summary.json``.

    Args:
        reader: the open video.
        segmenter: gives the masks.
        folder: where they go; made if need be.
        overlay: an .mp4 file for the video with its masks painted over it.
        overwrite: replace the masks and the overlay of an earlier run.
        progress: wraps the frames, as tqdm does.

    Returns:
        The summary, as written.

    Raises:
        ValueError: a video that cannot be decoded, or an output that cannot be used.
    """
    palette = segmenter.info.palette
    pixels = np.zeros(len(palette), dtype=np.int64)
    times: list[float | None] = []
    unanswered: deque[VideoFrame] = deque()
    frames = iter(progress(reader))
    first = next(frames)  # a video without a frame raises here, before anything is written
    height, width = first.image.shape[:2]

    def images() -> Iterator[np.ndarray]:
        for frame in chain([first], frames):
            unanswered.append(frame)
            yield frame.image

    if overlay:
        _check_overlay(overlay, reader.info.path, overwrite=overwrite)
    with ExitStack() as stack:
        writer = stack.enter_context(VideoWriter(overlay, reader.info.frames_per_second)) if overlay else None
        prepare_folder(folder, overwrite=overwrite)
        for mask in segmenter.segment(images()):
            frame = unanswered.popleft()
            write_atomically(folder / f"{frame.index:06d}.png", encode_mask(mask, palette))
            if writer:
                writer.write(blend(frame.image, mask, palette), frame.pts_seconds)
            pixels += np.bincount(mask.ravel(), minlength=len(palette))
            times.append(frame.pts_seconds)
    info = segmenter.info
    summary = {
        "video": reader.info.path.name,
        "frames": len(times),
        "width": width,
        "height": height,
        "frames_per_second": reader.info.frames_per_second,
        "pts_seconds": times,
        "classes": [
            {"id": i, "name": name, "color": list(color), "pixel_share": float(pixels[i] / pixels.sum())}
            for i, (name, color) in enumerate(zip(info.class_names, palette, strict=True))
        ],
        "model": {"dataset": info.dataset, "backbone": info.model.backbone, "loops": info.model.loops},
        "clip_length": segmenter.clip_length,
        "input_size": list(segmenter.input_size),
        "precision": str(segmenter.precision).removeprefix("torch."),
        "decoder": reader.info.decoder,
        "versions": {"ccnet3d": ccnet3d.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "warnings": reader.info.warnings,
    }
    write_atomically(folder / SUMMARY_NAME, (json.dumps(summary, indent=1) + "\n").encode())
    return summary
